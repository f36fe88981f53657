"""AdamW with moments of 8 bits (arXiv 2110.02861), by bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.core.settings import Peft, Trainer
from mmsafe.models.model_options import ModelOptions
from mmsafe.training.optimizers.adamw import Adam

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@options
class AdamW8bit(Adam):
    """Moments in blocks of 256 with a scale each; those of small tensors stay fp32."""

    name: ClassVar[str] = "adamw_8bit"

    def algorithm(self, model: nn.Module, *, fused: bool) -> tuple[type[TorchOptimizer], dict[str, Any]]:
        """Of bitsandbytes."""
        from bitsandbytes.optim.adamw import AdamW8bit as Algorithm

        return Algorithm, {"betas": (self.beta1, self.beta2)}

    def missing(self) -> str:
        """It is an extra."""
        if find_spec("bitsandbytes"):
            return ""
        return f"optimizer={self.name}: bitsandbytes is not installed; run pip install 'mmsafe[qlora]'"

    def moments(self, weight: int, matrices: float) -> float:
        """Two bytes, and two fp32 scales for 256 weights."""
        return 2 + 2 * 4 / 256


@options
class PagedAdamW8bit(AdamW8bit):
    """The same, with moments that CUDA moves to the host's memory when the GPU's is full."""

    name: ClassVar[str] = "paged_adamw_8bit"

    def refusal(self, sharded_by: str | None, trainer: Trainer, model: ModelOptions, peft: Peft) -> str:
        """Only CUDA has pages."""
        if trainer.accelerator not in ("auto", "gpu"):
            return f"optimizer={self.name}: needs a GPU, not trainer.accelerator={trainer.accelerator}; see adamw_8bit"
        return super().refusal(sharded_by, trainer, model, peft)

    def algorithm(self, model: nn.Module, *, fused: bool) -> tuple[type[TorchOptimizer], dict[str, Any]]:
        """Of bitsandbytes, which would take ordinary memory where there is no GPU."""
        from bitsandbytes.optim.adamw import PagedAdamW8bit as Algorithm

        if not next(model.parameters()).is_cuda:
            raise UserError(f"optimizer={self.name}: needs a GPU; use optimizer=adamw_8bit")
        return Algorithm, {"betas": (self.beta1, self.beta2)}
