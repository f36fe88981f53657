"""The interface of a benchmark: what a file in `conf/benchmark/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource, Loaded, NoData
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.judge import Judge, Verdict
from mmsafe.evaluation.paper_row import PaperRow
from mmsafe.evaluation.statistics import Estimate, reach

if TYPE_CHECKING:
    from rich.table import Table

Part = Literal["holdout", "test"]
CATEGORIES = ("source", "category", "class1", "class2", "class3")
"""Tags that tell of any data where an example is from and which harm it is about."""


def examples(data: DataSource, part: Part) -> list[Example]:
    """What this part of the data holds."""
    return _loaded(data, part).examples


def _loaded(data: DataSource, part: Part) -> Loaded:
    if isinstance(data, NoData):
        return Loaded([])
    return data.holdout() if part == "holdout" else data.test()


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt of the benchmark, the response to it and the verdict."""

    example: Example
    response: str
    verdict: Verdict


class Bounds(NamedTuple):
    """A metric's worst and best value, whatever the unknown verdicts are in truth."""

    bad: float
    good: float


@options
class Benchmark(ABC):
    """Prompts to answer, pairs to compare, and the metrics that come of the verdicts."""

    name: ClassVar[str]
    measures: ClassVar[tuple[Metric, ...]] = ()
    """The metrics to show, in order; where none is declared, all of them are, by their names."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags by whose values the metrics are broken down."""
    is_test_set: ClassVar[bool] = False
    """Whether it asks a published test set, on which nothing may be tuned, and not what the data hold out."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a judge must tell besides `unsafe`: details, or `refused` where that is what is measured."""

    paper_rows: ClassVar[tuple[PaperRow, ...]] = ()
    """What the BPO paper printed of it."""

    @abstractmethod
    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """What the model is asked; ids are distinct."""

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        """How many rows that should have made prompts were dropped for which reason."""
        return _loaded(data, part).dropped

    def criterion(self, example: Example) -> str:
        """By what a judge is to judge responses to this prompt: a file name in `judges/prompts/`."""
        return "harm"

    def pairs(self, data: DataSource, part: Part) -> list[Example]:
        """Examples with `chosen` and `rejected`, for pairwise accuracy."""
        return [example for example in examples(data, part) if {"chosen", "rejected"} <= set(example.responses)]

    @abstractmethod
    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """Named estimates; None where there is nothing to measure."""

    def bounds(self, judged: Sequence[Judged]) -> Mapping[str, Bounds]:
        """How far unknown verdicts can move each metric; these bounds are attained.

        As it stands for metrics that each unsafe response, and each refusal, moves one way only. What sets rows against
        one another, or takes a refusal here for good and there for bad, is overridden.
        """
        names = {name for row in judged for name in row.verdict.details}
        bad, good = (self.metrics([told(row, bad, bad, names, not bad) for row in judged]) for bad in (True, False))
        return {
            name: Bounds(worst.value, best.value)
            for name, worst in bad.items()
            if worst is not None and (best := good[name]) is not None
        }

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        """What is yes or no of a single response, by the name of the rate; `mmsafe.compare` tests each."""
        return {"unsafe": verdict.unsafe or verdict.unknown, "refused": verdict.refused}

    def check_data(self, data: DataSource) -> None:  # noqa: B027  # most benchmarks take any data
        """Raise `ValueError` if the benchmark cannot ask about `data`."""

    def check_judge(self, judge: Judge) -> None:
        """Raise `ValueError` if `judge` cannot tell what the metrics need."""
        missing = ", ".join(sorted(self.needs - judge.tells))
        if missing:
            raise ValueError(f"judge={judge.name} cannot tell what benchmark={self.name} measures: {missing}")

    def report(self, metrics: Mapping[str, Any], folder: Path) -> list[Table]:
        """Tables to print beside the metrics of the run; what they show is written to `folder`, too."""
        return []

    def breakdown(self, judged: Sequence[Judged]) -> dict[str, Estimate]:
        """All metrics, then the same by tag as `metric/tag=value`; what could not be measured is left out."""
        found = {name: value for name, value in self.metrics(judged).items() if value is not None}
        for tag in self.tags:
            for value in sorted({row.example.tags[tag] for row in judged if tag in row.example.tags}):
                part = [row for row in judged if row.example.tags.get(tag) == value]
                for name, estimate in self.metrics(part).items():
                    if estimate is not None:
                        found[f"{name}/{tag}={value}"] = estimate
        return found


def told(row: Judged, unsafe: bool, refused: bool, details: Iterable[str] = (), detail: bool = False) -> Judged:
    """The row, with this verdict where its own is unknown."""
    if not row.verdict.unknown:
        return row
    said = {**row.verdict.details, **dict.fromkeys(details, detail)}
    return replace(row, verdict=replace(row.verdict, unsafe=unsafe, refused=refused, unknown=False, details=said))


def refusals(verdicts: Iterable[Verdict]) -> tuple[float, float]:
    """The least and the greatest share of responses that may refuse."""
    known = list(verdicts)
    return reach([verdict.refused for verdict in known], [verdict.unknown for verdict in known])
