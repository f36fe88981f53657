"""AdamW with moments of 8 bits (arXiv 2110.02861), by bitsandbytes."""

from importlib.util import find_spec
from typing import Any, ClassVar

from mmsafe.core.errors import UserError
from mmsafe.core.options import Share, options
from mmsafe.training.optimizers.optimizer import Optimizer


@options
class AdamW8bit(Optimizer):
    """Moments in blocks of 256 with a scale each; those of small tensors stay fp32."""

    name: ClassVar[str] = "adamw_8bit"

    beta1: Share = 0.9
    beta2: Share = 0.999
    paged: bool = False

    def missing(self) -> str:
        if find_spec("bitsandbytes"):
            return ""
        return f"optimizer={self.name}: bitsandbytes is not installed; run pip install 'mmsafe[qlora]'"

    def algorithm(self, model: Any, *, sharded: bool, precision: str) -> tuple[Any, dict[str, Any]]:
        """Of bitsandbytes, which would silently take ordinary memory where there is no CUDA."""
        from bitsandbytes.optim.adamw import AdamW8bit as Whole
        from bitsandbytes.optim.adamw import PagedAdamW8bit as Paged

        if self.paged and not next(model.parameters()).is_cuda:
            raise UserError("optimizer=paged_adamw_8bit: only CUDA has pages; use optimizer=adamw_8bit")
        return Paged if self.paged else Whole, {"betas": (self.beta1, self.beta2)}

    def moments(self, weight: int, matrices: float) -> float:
        """Two bytes, and two fp32 scales for 256 weights."""
        return 2 + 2 * 4 / 256
