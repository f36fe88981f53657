"""A search for options: how it chooses jobs, from which space, and what it may look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from mmsafe.core.config import built
from mmsafe.core.declared import Declared
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, Seed, options
from mmsafe.data.data_source import DataSource
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@options
class Search:
    """A search by Optuna, in place of all combinations."""

    n_trials: Count = 30
    batch: Count = 1
    """Jobs that are chosen together, and so without knowing of each other."""
    seed: Seed = 0
    """Of the choices."""
    maximize: list[str] | None = None
    """Metrics of training's own hold-out evaluation; null: those of safety, over-refusal and utility that the benchmark
    declares as better higher, or its score."""
    minimize: list[str] | None = None
    """null: those that it declares as better lower."""

    def directions(self, declared: Declared) -> dict[str, Literal["maximize", "minimize"]]:
        """What becomes of each metric; raises `UserError` if there is none."""
        better: dict[str, list[str]] = {"higher": [], "lower": []}
        for metric in declared.objectives():
            better[metric.better or "higher"].append(metric.key)
        up = better["higher"] if self.maximize is None else self.maximize
        down = better["lower"] if self.minimize is None else self.minimize
        if not (up or down):
            raise UserError("search: maximize and minimize are empty, and the benchmark declares none; name a metric")
        return {**dict.fromkeys(up, "maximize"), **dict.fromkeys(down, "minimize")}


def search_options(cfg: DictConfig) -> Search:
    """The options of the node `search`."""
    search = built(OmegaConf.to_container(cfg.search, resolve=True), "search")
    assert isinstance(search, Search)
    return search


def check_search(config: Any, search: Search) -> None:
    """Raise `UserError` if the training runs of `config` would not be evaluated on rows held out of their own data.

    Also if nothing says what to search for.
    """
    if not config.evaluate:
        raise UserError("evaluate=false: a search needs the evaluation of each run; set evaluate=true")
    if config.benchmark.is_test_set:
        name = config.benchmark.name
        raise UserError(
            f"benchmark={name}: a search would tune on this test set; choose one that asks what data hold out"
        )
    search.directions(Declared(config.benchmark.measures))
    _check_data(config.data, "data")


def _check_data(data: DataSource, path: str) -> None:
    if isinstance(data, Mix):
        for name, part in data.parts.items():
            _check_data(part, f"{path}.parts.{name}")
    for option in ("eval_path", "eval_split") if isinstance(data, RowSource) else ():
        if getattr(data, option) is not None:
            raise UserError(
                f"{path}.{option}: a search would tune on it; leave it null, so that a share of the data is held out"
            )


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


def dimensions(overrides: Iterable[Override]) -> list[Dimension]:
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
