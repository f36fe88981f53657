"""AdamW (arXiv 1711.05101), as PyTorch has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmsafe.core.options import Share, options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@options
class Adam(Optimizer):
    """What all variants of Adam have."""

    beta1: Share = 0.9
    beta2: Share = 0.999


@options
class AdamW(Adam):
    """Two moments for each weight, in its type."""

    name: ClassVar[str] = "adamw"
    works_on_shards: ClassVar[bool] = True

    fused: Literal["auto"] | bool = "auto"
    """One kernel for all of a step. `auto`: on GPUs; on CPUs it is some 3 times faster, and other in the last bit."""

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        """A fused step takes no scaled gradients that are clipped, and shards are not tested with it."""
        if self.fused is True and (sharded_by or trainer.precision == "16-mixed"):
            return "optimizer.fused=true: works neither on shards of weights nor in 16-mixed; set optimizer.fused=auto"
        return super().refusal(sharded_by, trainer, model, peft)

    def fuses(self, *, on_gpu: bool, sharded: bool, precision: str) -> bool:
        """As `fused` says, and otherwise wherever it works."""
        if self.fused != "auto":
            return self.fused
        return super().fuses(on_gpu=on_gpu, sharded=sharded, precision=precision)

    def algorithm(self, model: nn.Module, *, fused: bool) -> tuple[type[TorchOptimizer], dict[str, Any]]:
        """PyTorch's; None leaves the choice of kernels to it."""
        import torch

        return torch.optim.AdamW, {"betas": (self.beta1, self.beta2), "fused": fused or None}

    def moments(self, weight: int, matrices: float) -> float:
        """Two, in the type of the weight."""
        return 2 * weight

    def updates_at_once(self, *, fused: bool) -> bool:
        """√v of all weights, where no kernel is fused."""
        return not fused and self.rounding == "nearest"
