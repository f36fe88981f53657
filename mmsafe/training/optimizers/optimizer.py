"""The plug-in interface of an optimiser: what it is given of a model, and what it says about itself."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, Literal

from mmsafe.core.options import Count, NonNegative, Positive, Share, options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions


@options
class RateByPart:
    """Peak learning rates of parts of the model; null: `optimizer.lr`."""

    projector: Positive | None = None
    language: Positive | None = None
    vision: Positive | None = None
    adapters: Positive | None = None


@options
class Optimizer(ABC):
    """Base of all optimisers, with the schedule of their learning rates; fields are options."""

    name: ClassVar[str]
    """Its name in `conf/optimizer/`."""
    works_on_shards: ClassVar[bool] = False
    """Whether it does the same to pieces of weights, as FSDP and ZeRO cut them."""

    lr: Positive
    lr_by_part: RateByPart = RateByPart()
    weight_decay: NonNegative = 0.0
    decay_norms_and_biases: bool = True
    rounding: Literal["nearest", "stochastic", "kahan"] = "nearest"
    """How bf16 weights are updated. `nearest`: in bf16, which loses small updates. `stochastic`: in fp32, then rounded
    up or down at random, right in the mean; `kahan`: in fp32, and what rounding took is kept, in 2 bytes a weight."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_steps: NonNegative = 10
    decay_steps: NonNegative = 0.1
    min_lr_ratio: Share = 0.0
    schedule_ahead: Share = 0.0
    """Part of a step by which the schedule is ahead. The BPO paper's released code moves its schedule on after each of
    two micro-batches, with a warm-up of 10: here that is `warmup_steps=5` and 0.5."""
    global_batch_size: Count | None = None

    def __post_init__(self) -> None:
        if self.min_lr_ratio and self.schedule not in ("cosine", "wsd"):
            raise ValueError(f"min_lr_ratio works with schedule=cosine or wsd, not with {self.schedule}")

    @abstractmethod
    def algorithm(self, model: Any, *, sharded: bool, precision: str) -> tuple[Any, dict[str, Any]]:
        """The class of PyTorch's kind, and its arguments but weights, rate and decay."""

    @abstractmethod
    def moments(self, weight: int, matrices: float) -> float:
        """Bytes of its state for a trained weight that is kept in `weight` bytes.

        `matrices` is the share of what is trained that lies in matrices of the language model's layers.
        """

    def updates_at_once(self, *, sharded: bool, precision: str) -> bool:
        """Whether a step on a GPU holds an update of all weights at once, besides the state."""
        return False

    def missing(self) -> str:
        """What this machine lacks for it; empty if nothing."""
        return ""

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        """Why it cannot train so, where the strategy `sharded_by` cuts all weights; empty if it can."""
        if sharded_by and not self.works_on_shards:
            return f"optimizer={self.name}: needs whole weights, which strategy={sharded_by} cuts; choose strategy=ddp"
        if self.rounding != "nearest":
            if sharded_by:
                return f"optimizer.rounding={self.rounding}: strategy={sharded_by} cuts weights; choose strategy=ddp"
            if peft.method != "none" or getattr(model, "dtype", "float32") != "bfloat16":
                return f"optimizer.rounding={self.rounding}: is for bf16 weights; set model.dtype=bfloat16 peft=none"
        trained = asdict(model.train) | {"adapters": peft.method != "none"}
        trained["language"] &= peft.method == "none"
        idle = {part: rate for part, rate in asdict(self.lr_by_part).items() if rate is not None and not trained[part]}
        problems = [f"optimizer.lr_by_part.{part}={rate}: nothing of that is trained" for part, rate in idle.items()]
        return f"{problems[0]}; see model.train and peft" if problems else ""

    def state_bytes(self, weight: int, matrices: float = 1.0) -> float:
        """Bytes that are kept from step to step for a trained weight; see `moments`."""
        if self.rounding == "nearest":
            return self.moments(weight, matrices)
        return self.moments(4, matrices) + (2 if self.rounding == "kahan" else 0)

    def parts(self, model: Any) -> dict[Any, str]:
        """The part of each trained weight, or "" for all where they have one rate."""
        from mmsafe.models.family import family_of

        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not any(asdict(self.lr_by_part).values()):
            return dict.fromkeys(trained.values(), "")
        parts = family_of(model.config.model_type).parts
        named = {name: "adapters" if ".lora_" in name else parts.of(name) for name in trained}
        return {weight: named[name].replace("connector", "projector") for name, weight in trained.items()}

    def groups(self, model: Any) -> list[dict[str, Any]]:
        """The groups of what is trained, each with one rate and one decay, in the order of the model."""
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        for weight, part in self.parts(model).items():
            decays = self.decay_norms_and_biases or len(getattr(weight, "ds_shape", weight.shape)) > 1  # ZeRO-3: empty
            rate = getattr(self.lr_by_part, part, None) or self.lr
            group: dict[str, Any] = {"params": [], "lr": rate, "weight_decay": self.weight_decay * decays}
            groups.setdefault((part, decays), group)["params"].append(weight)
        return list(groups.values())

    def build(self, model: Any, *, sharded: bool, precision: str) -> Any:
        """The optimiser of all that is trained of `model`; `sharded`: each device has a piece."""
        algorithm, arguments = self.algorithm(model, sharded=sharded, precision=precision)
        if self.rounding != "nearest":
            from mmsafe.training.optimizers.rounding import with_rounding

            algorithm = with_rounding(algorithm, kahan=self.rounding == "kahan")
        return algorithm(self.groups(model), lr=self.lr, weight_decay=self.weight_decay, **arguments)

    def scheduled(self, optimizer: Any, steps: int) -> Any:
        """The schedule of `optimizer` over a run of `steps` optimiser steps."""
        from torch.optim.lr_scheduler import LambdaLR

        of_run = {"warmup": self.warmup_steps, "decay": self.decay_steps}
        count = {name: int(value if value >= 1 else value * steps) for name, value in of_run.items()}
        return LambdaLR(optimizer, partial(self._factor, steps=steps, **count))

    def _factor(self, step: float, *, steps: int, warmup: int, decay: int) -> float:
        """Rate at `step` as a share of the peak: those of `transformers.get_scheduler`, whose import loads PEFT."""
        step, floor, is_wsd = step + self.schedule_ahead, self.min_lr_ratio, self.schedule == "wsd"
        if step < warmup:
            return step / warmup * (1 - floor) + floor if is_wsd else step / warmup
        begin = steps - decay if is_wsd else warmup
        if self.schedule == "constant" or step < begin:
            return 1.0
        if self.schedule == "linear":
            return max(0.0, (steps - step) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - begin) / max(1, steps - begin)))) * (1 - floor) + floor
