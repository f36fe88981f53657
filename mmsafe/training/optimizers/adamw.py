"""AdamW (arXiv 1711.05101), as PyTorch has it."""

from typing import Any, ClassVar, Literal

from mmsafe.core.options import Share, options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.training.optimizers.optimizer import Optimizer


@options
class AdamW(Optimizer):
    """Two moments for each weight, in its type."""

    name: ClassVar[str] = "adamw"
    works_on_shards: ClassVar[bool] = True

    beta1: Share = 0.9
    beta2: Share = 0.999
    fused: Literal["auto"] | bool = "auto"
    """One kernel for all of a step. `auto`: on GPUs; on CPUs it is some 3 times faster, and other in the last bit."""

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        """A fused step takes no scaled gradients that are clipped, and is not tested on shards."""
        if self.fused is True and (sharded_by or trainer.precision == "16-mixed"):
            return "optimizer.fused=true: works neither on shards of weights nor in 16-mixed; set optimizer.fused=auto"
        return super().refusal(sharded_by, trainer, model, peft)

    def algorithm(self, model: Any, *, sharded: bool, precision: str) -> tuple[Any, dict[str, Any]]:
        """PyTorch's; None leaves the choice of kernels to it."""
        import torch

        on_gpu = next(model.parameters()).is_cuda
        fused = self.fused if self.fused != "auto" else on_gpu and self._fuses(sharded, precision)
        return torch.optim.AdamW, {"betas": (self.beta1, self.beta2), "fused": fused or None}

    def moments(self, weight: int, matrices: float) -> float:
        """Two, in the type of the weight."""
        return 2 * weight

    def updates_at_once(self, *, sharded: bool, precision: str) -> bool:
        """√v of all weights, where no kernel is fused."""
        return self.rounding == "nearest" and not self._fuses(sharded, precision)

    def _fuses(self, sharded: bool, precision: str) -> bool:
        """Whether a step on a GPU is one kernel."""
        return self.fused is not False and not sharded and precision != "16-mixed"
