"""Adafactor (arXiv 1804.04235), as `transformers` has it."""

from typing import Any, ClassVar

from mmsafe.core.options import options
from mmsafe.training.optimizers.optimizer import Optimizer


@options
class Adafactor(Optimizer):
    """Second moments by row and column of a matrix, no first ones; learning rates are as for AdamW."""

    name: ClassVar[str] = "adafactor"

    def algorithm(self, model: Any, *, sharded: bool, precision: str) -> tuple[Any, dict[str, Any]]:
        """Without its own schedule and scales."""
        import transformers

        from mmsafe.training.optimizers.rounding import keeping_types

        return keeping_types(transformers.Adafactor), {"scale_parameter": False, "relative_step": False}

    def moments(self, weight: int, matrices: float) -> float:
        """A row and a column in fp32: hardly anything, but for adapters of a small rank."""
        return 0.03
