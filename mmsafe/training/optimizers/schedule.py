"""Learning rates from step to step."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from mmsafe.training.optimizers.optimizer import Optimizer


def scheduled(optimizer: torch.optim.Optimizer, options: Optimizer, steps: int) -> LambdaLR:
    """The schedule of `optimizer` over a run of `steps` optimiser steps."""
    of_run = {"warmup": options.warmup_steps, "decay": options.decay_steps}
    count = {name: int(value if value >= 1 else value * steps) for name, value in of_run.items()}
    name: str = options.schedule
    more: dict[str, Any] = {}
    if name == "wsd":
        name, more = "warmup_stable_decay", {"num_decay_steps": count["decay"], "min_lr_ratio": options.min_lr_ratio}
    elif options.min_lr_ratio:
        name, more = "cosine_with_min_lr", {"min_lr_rate": options.min_lr_ratio}
    elif name == "constant":
        name = "constant_with_warmup"
    schedule: LambdaLR = get_scheduler(name, optimizer, count["warmup"], steps, scheduler_specific_kwargs=more)
    if not (ahead := options.schedule_ahead):
        return schedule
    factors: list[Any] = [lambda step, factor=factor: factor(step + ahead) for factor in schedule.lr_lambdas]
    return LambdaLR(optimizer, factors)
