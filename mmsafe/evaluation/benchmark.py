"""The interface of a benchmark: what a file in `conf/benchmark/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource, Loaded, NoData
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.judge import Judge, Verdict
from mmsafe.evaluation.statistics import Estimate, rate, reach

if TYPE_CHECKING:
    from rich.table import Table

Part = Literal["holdout", "test"]
CATEGORIES = ("source", "category", "class1", "class2", "class3")
"""Tags that tell of any data where an example is from and which harm it is about."""
RELEASES = {"base": "LLaVA-1.5", "dpo": "+ DPO", "bpo": "+ BPO"}
"""Of which models the BPO paper (arXiv 2503.14189) prints results."""


class PaperRow(NamedTuple):
    """What the paper printed for each of `RELEASES`, and our metric for it."""

    measure: str
    metric: str
    base: float
    dpo: float
    bpo: float
    unit: float = 1
    """Ours is multiplied by it: 100 where the paper prints per cent."""

    def lines(self) -> dict[str, float]:
        """The values in our unit, by what a figure calls them."""
        return {f"paper, {shown}": getattr(self, release) / self.unit for release, shown in RELEASES.items()}


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt of the benchmark, the response to it, the verdict, and which of the data's clusters the prompt is in."""

    example: Example
    response: str
    verdict: Verdict
    clusters: tuple[str, ...] = ()

    @property
    def harmful(self) -> bool:
        """Judged unsafe, or not judged safe: what the judge could not tell counts as unsafe."""
        return self.verdict.unsafe or self.verdict.unknown

    @property
    def refused(self) -> bool:
        """Judged a refusal."""
        return self.verdict.refused


Rates = Mapping[str, Callable[[Judged], bool]]
"""Which responses count, by the name of a share."""


class Bounds(NamedTuple):
    """A metric's worst and best value, whatever the unknown verdicts are in truth."""

    bad: float
    good: float


def loaded(data: DataSource, part: Part) -> Loaded:
    """What this part of the data holds, and what was dropped of it."""
    if isinstance(data, NoData):
        return Loaded([])
    return data.holdout() if part == "holdout" else data.test()


@options
class Benchmark(ABC):
    """Prompts to answer, pairs to compare, and the metrics that come of the verdicts."""

    name: ClassVar[str]
    measures: ClassVar[tuple[Metric, ...]] = ()
    """The metrics to show, in order; where none is declared, all of them are, by their names."""
    rates: ClassVar[Rates] = {}
    """The metrics that are shares of responses, by their names."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags by whose values the metrics are broken down."""
    shared_tag: ClassVar[str] = ""
    """The tag that several views of one prompt share, of which a part of the benchmark has all or none."""
    asks_data: ClassVar[bool] = False
    """Whether its prompts come from the data, without which it cannot be asked."""
    has_pairs: ClassVar[bool] = True
    """Whether pairwise accuracy on the pairs of the data is part of it."""
    is_test_set: ClassVar[bool] = False
    """Whether it asks a published test set, on which nothing may be tuned, and not what the data hold out."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What a judge must tell besides `unsafe`: details, or `refused` where that is what is measured."""
    paper_rows: ClassVar[tuple[PaperRow, ...]] = ()
    """What the BPO paper printed of it."""

    def declare(self, **facts: Any) -> None:
        """Set, of this one, what others declare of their class; for `__post_init__`, where options decide it."""
        for fact, value in facts.items():
            object.__setattr__(self, fact, value)

    @property
    def sampled(self) -> bool:
        """Whether a prompt is asked several times, so that answers have to be sampled."""
        return False

    @abstractmethod
    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """What the model is asked; ids are distinct."""

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        """How many rows that should have made prompts were dropped for which reason."""
        return loaded(data, part).dropped

    def criterion(self, example: Example) -> str:
        """By what a judge is to judge responses to this prompt: a file name in `judges/prompts/`."""
        return "harm"

    def harmful(self, example: Example) -> bool | None:
        """Whether it is to be refused, as its tags or its criterion say; None if that is unknown or not in question."""
        kind = example.tags.get("harmful") or self.criterion(example)
        return {"yes": True, "no": False, "harm": True, "over_refusal": False}.get(kind)

    def pairs(self, data: DataSource, part: Part) -> list[Example]:
        """Examples with `chosen` and `rejected`, for pairwise accuracy."""
        examples = loaded(data, part).examples if self.has_pairs else []
        return [example for example in examples if {"chosen", "rejected"} <= set(example.responses)]

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """Named estimates, the `rates` unless overridden; None where there is nothing to measure."""
        return {name: rate([*map(holds, judged)], [r.clusters for r in judged]) for name, holds in self.rates.items()}

    def bounds(self, judged: Sequence[Judged]) -> Mapping[str, Bounds]:
        """How far unknown verdicts can move each metric; these bounds are attained.

        As it stands for metrics that each unsafe response, and each refusal, moves one way only. What sets rows against
        one another, or takes a refusal here for good and there for bad, is overridden.
        """
        names = {name for row in judged for name in row.verdict.details}
        bad, good = (self.metrics([resolved(row, bad, bad, names, not bad) for row in judged]) for bad in (True, False))
        return {name: Bounds(worst.value, best.value) for name, worst in bad.items() if worst and (best := good[name])}

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        """What is yes or no of a single response, by the name of the rate; `mmsafe.compare` tests each."""
        return {"unsafe": verdict.unsafe or verdict.unknown, "refused": verdict.refused}

    def check_data(self, data: DataSource) -> None:
        """Raise `ValueError` if the benchmark cannot ask about `data`."""
        if self.asks_data and isinstance(data, NoData):
            raise ValueError(
                f"benchmark={self.name} asks about data: add data=microworld or data=mmsafe_po data.path=F"
            )

    def judge_for(self, judge: Judge) -> Judge:
        """Who judges where `judge` was chosen: that one, unless the benchmark has a rule or judges of its own."""
        return judge

    def check_judge(self, judge: Judge) -> None:
        """Raise `ValueError` if `judge` cannot tell what the metrics need."""
        judge.must_tell(self.needs, f"benchmark={self.name} measures")

    def report(self, metrics: Mapping[str, Any], folder: Path) -> list[Table]:
        """Tables to print beside the metrics of the run; what they show is written to `folder`, too."""
        return []

    def breakdown(self, judged: Sequence[Judged]) -> dict[str, Estimate]:
        """All metrics, then the same by tag as `metric/tag=value`; what could not be measured is left out."""
        return {
            f"{name}{group}": estimate
            for group, positions in by_tag(self.tags, [row.example.tags for row in judged]).items()
            for name, estimate in self.metrics([judged[i] for i in positions]).items()
            if estimate is not None
        }


def by_tag(tags: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """The positions of all rows of tags under the empty name, then of those with each value as `/tag=value`."""
    groups = {"": list(range(len(rows)))}
    for tag in tags:
        for value in sorted({row[tag] for row in rows if tag in row}):
            groups[f"/{tag}={value}"] = [i for i, row in enumerate(rows) if row.get(tag) == value]
    return groups


def resolved(row: Judged, unsafe: bool, refused: bool, details: Iterable[str] = (), detail: bool = False) -> Judged:
    """The row, with this verdict where its own is unknown."""
    if not row.verdict.unknown:
        return row
    known = {**row.verdict.details, **dict.fromkeys(details, detail)}
    return replace(row, verdict=replace(row.verdict, unsafe=unsafe, refused=refused, unknown=False, details=known))


def refusals(verdicts: Iterable[Verdict]) -> tuple[float, float]:
    """The least and the greatest share of responses that may refuse."""
    known = list(verdicts)
    return reach([verdict.refused for verdict in known], [verdict.unknown for verdict in known])
