"""The space of a search, in Hydra's syntax for sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from mmsafe.core.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Dimension:
    """What one option may be: a choice where there is no `low`, else a number from `low` to `high`, both included."""

    key: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False

    def corners(self) -> list[str]:
        """Overrides with the outermost values, or with every choice."""
        values = self.choices if self.low is None else (self.low, self.high)
        return [f"{self.key}={value}" for value in values]

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.low is None or self.high is None:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def dimensions(overrides: Sequence[Override]) -> list[Dimension]:
    """Those overrides that leave something open: `a,b`, `choice`, `glob`, `range`, `interval`, `tag(log, interval)`.

    Raises `UserError` for an interval that no number can be drawn from.
    """
    return [_dimension(override) for override in overrides if override.is_sweep_override()]


def _dimension(override: Override) -> Dimension:
    key, value = override.get_key_element(), override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low, high = cast("tuple[float, float]", (value.start, value.end))
        if not (low < high and (low > 0 or not log)):
            raise UserError(f"{override.input_line}: needs low < high, and low > 0 with tag(log, …)")
        return Dimension(key, low=low, high=high, log=log)
    if isinstance(value, RangeSweep) and not log and len(values := list(override.sweep_iterator())) > 1:
        numbers = sorted(cast("list[float]", values))
        return Dimension(key, low=numbers[0], high=numbers[-1], step=abs(cast("float", value.step)))
    return Dimension(key, choices=tuple(override.sweep_string_iterator()))
