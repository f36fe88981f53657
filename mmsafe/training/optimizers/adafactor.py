"""Adafactor (arXiv 1804.04235), as `transformers` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mmsafe.core.options import options
from mmsafe.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer


@options
class Adafactor(Optimizer):
    """Second moments by row and column of a matrix, no first ones; the rate is set, as for AdamW, and no share of a
    weight's size."""

    name: ClassVar[str] = "adafactor"

    def algorithm(self, model: nn.Module, *, fused: bool) -> tuple[type[TorchOptimizer], dict[str, Any]]:
        """Without its own schedule and scales."""
        import transformers

        from mmsafe.training.optimizers.rounding import keep_types

        class Algorithm(transformers.Adafactor):
            """Its moments are fp32, whatever the weights are."""

            def load_state_dict(self, state_dict: dict[str, Any]) -> None:
                super().load_state_dict(state_dict)
                keep_types(self, state_dict)

        return Algorithm, {"scale_parameter": False, "relative_step": False}

    def moments(self, weight: int, matrices: float) -> float:
        """A row and a column in fp32: hardly anything, but for adapters of a small rank."""
        return 0.03
