"""How a model is spread over the devices of a run: `conf/strategy/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmsafe.core.options import Count, options
from mmsafe.core.settings import Trainer

if TYPE_CHECKING:
    from mmsafe.training.strategies.parallel import Parallel


@options
class Strategy(ABC):
    """Base of all strategies; every one of them takes the same optimiser steps."""

    name: ClassVar[str]
    """Its name in `conf/strategy/`."""
    compiles: ClassVar[bool] = False
    """Whether the layers that it trains may be compiled."""
    several_parts: ClassVar[bool] = False
    """Whether the devices share one copy of the weights, so that no device can run the model alone."""

    shards_optimizer: ClassVar[bool] = False
    """Whether a device updates a piece of the weights only."""

    @abstractmethod
    def parallel(self, trainer: Trainer) -> Parallel:
        """What training asks of the strategy."""

    def refusal(self, trainer: Trainer) -> str:
        """Why this trainer cannot run with the strategy; empty if it can."""
        return ""


@options
class Auto(Strategy):
    """One device: nothing to spread. Several: DDP."""

    name: ClassVar[str] = "auto"
    compiles: ClassVar[bool] = True

    def parallel(self, trainer: Trainer) -> Parallel:
        from mmsafe.training.strategies.parallel import Parallel

        return Parallel(trainer, ddp=self.name == "ddp" or trainer.processes > 1)


@options
class DDP(Auto):
    """A whole model with its optimiser on every device; gradients are averaged as they are made."""

    name: ClassVar[str] = "ddp"


class _HalfWeights(Strategy, ABC):
    """Strategies whose mixed precision means bf16 weights with fp32 masters in the optimiser, in pieces."""

    shards_optimizer: ClassVar[bool] = True

    def refusal(self, trainer: Trainer) -> str:
        """fp16 is not offered: its loss scaling skips steps, which the schedule would have to know."""
        if trainer.precision == "16-mixed":
            return "trainer.precision=16-mixed: works with strategy=auto or ddp only; choose bf16-mixed or 32-true"
        return ""


@options
class FSDP(_HalfWeights):
    """PyTorch's fully sharded data parallelism, version 2: weights, gradients and optimiser in parts."""

    name: ClassVar[str] = "fsdp"
    several_parts: ClassVar[bool] = True

    def parallel(self, trainer: Trainer) -> Parallel:
        from mmsafe.training.strategies.fsdp import FullySharded

        return FullySharded(trainer)


@options
class DeepSpeed(_HalfWeights):
    """DeepSpeed's ZeRO (1910.02054): 1 splits the optimiser, 2 the gradients too, 3 the weights as well."""

    accelerators: ClassVar[tuple[str, ...]] = ("auto", "gpu")
    stage: Literal[1, 2, 3]
    offload: bool = False
    """Stage 3: keep optimiser and weights in the host's memory; slow, and fits where nothing else does."""
    bucket_size: Count = 200_000_000
    zero_optimization: dict[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.offload and self.stage < 3:
            raise ValueError(f"offload works in stage 3 only, not in stage {self.stage}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name in `conf/strategy/`."""
        return f"deepspeed_zero{self.stage}{'_offload' if self.offload else ''}"

    @property
    def several_parts(self) -> bool:  # type: ignore[override]
        """Weights are in parts in stage 3 only."""
        return self.stage == 3

    def refusal(self, trainer: Trainer) -> str:
        """DeepSpeed is an extra, and Lightning's strategy wants CUDA."""
        if find_spec("deepspeed") is None:
            return "strategy: DeepSpeed is not installed; run pip install 'mmsafe[deepspeed]', or choose strategy=fsdp"
        if trainer.accelerator not in self.accelerators:
            return f"strategy: DeepSpeed needs a GPU, not trainer.accelerator={trainer.accelerator}; see strategy=fsdp"
        return super().refusal(trainer)

    def parallel(self, trainer: Trainer) -> Parallel:
        """Lightning's DeepSpeedStrategy, configured here."""
        from mmsafe.training.strategies.zero import ZeRO

        return ZeRO(trainer, **asdict(self))
