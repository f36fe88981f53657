"""Learning rates from step to step."""

import math
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR

from mmsafe.training.optimizers.optimizer import Optimizer


def scheduled(optimizer: torch.optim.Optimizer, options: Optimizer, steps: int) -> LambdaLR:
    """The schedule of `optimizer` over a run of `steps` optimiser steps."""
    of_run = {"warmup": options.warmup_steps, "decay": options.decay_steps}
    count = {name: int(value if value >= 1 else value * steps) for name, value in of_run.items()}
    return LambdaLR(optimizer, partial(factor, options, steps=steps, **count))


def factor(options: Optimizer, step: float, *, steps: int, warmup: int, decay: int) -> float:
    """Rate at `step` as a share of the peak: the numbers of `transformers.get_scheduler`, whose import loads PEFT."""
    step, floor, is_wsd = step + options.schedule_ahead, options.min_lr_ratio, options.schedule == "wsd"
    if step < warmup:
        return step / warmup * (1 - floor) + floor if is_wsd else step / warmup
    begin = steps - decay if is_wsd else warmup
    if options.schedule == "constant" or step < begin:
        return 1.0
    if options.schedule == "linear":
        return max(0.0, (steps - step) / max(1, steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begin) / max(1, steps - begin)))) * (1 - floor) + floor
