"""Benchmarks that are made of others: each part's prompts are asked, judged and measured as it has them."""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, TypeVar

from pydantic import BeforeValidator, Field, InstanceOf

from mmsafe.core.config import each_built
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Bounds, Judged, Part
from mmsafe.evaluation.judges.judge import PART, Case, CompositeJudge, Judge, Verdict
from mmsafe.evaluation.judging import verdicts_on
from mmsafe.evaluation.statistics import Estimate

T = TypeVar("T")
Members = Annotated[dict[str, InstanceOf[Benchmark] | None], BeforeValidator(each_built("benchmark.members"))]
Judges = Annotated[dict[str, InstanceOf[Judge]], BeforeValidator(each_built("benchmark.judges"))]
HOW = "+benchmark@benchmark.members.NAME=pope benchmark.members.NAME.path=FOLDER"


def inside(example: Example) -> tuple[str, Example]:
    """The part that a prompt is of, and the prompt with the tags that it has there."""
    name, _, inner = example.tags[PART].partition("/")
    return name, replace(example, tags={**example.tags, PART: inner})


@options
class ByPart(CompositeJudge):
    """The judge of each part, by its name; each keeps its verdicts as if it judged alone."""

    name = "by_part"
    judges: dict[str, InstanceOf[Judge]]

    @property
    def each(self) -> list[Judge]:
        """One that judges several parts is loaded only once."""
        return list({id(judge): judge for judge in self.judges.values()}.values())

    @property
    def label(self) -> str:
        return ", ".join(dict.fromkeys(judge.label for judge in self.each))

    @property
    def tells(self) -> frozenset[str]:
        return frozenset().union(*(judge.tells for judge in self.each))

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        dealt = [(i, case, *inside(case.example)) for i, case in enumerate(cases)]
        for judge in self.each:
            part_cases = {i: replace(case, example=e) for i, case, name, e in dealt if self.judges[name] is judge}
            yield from zip(part_cases, verdicts_on(list(part_cases.values()), judge), strict=True)


@options
class Composite(Benchmark):
    """Ids begin with the part's name, which the tag `part` holds, too; parts may be composite themselves."""

    shared_tag = "unit"
    place = "benchmark.{}"
    """What a part is called on the command line."""
    prefix = ""
    """Begins a metric of a part."""
    advice = ""
    """How to do without it."""
    judges: ClassVar[Mapping[str, Judge]] = {}
    """Judges of single parts; the run's judge judges the others."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Benchmark]:
        """By their names, in the order in which they are asked."""

    @property
    def sampled(self) -> bool:
        return any(part.sampled for part in self.parts.values())

    def judge_for(self, judge: Judge) -> Judge:
        judges = self._each(lambda name, part: part.judge_for(self.judges.get(name, judge)))
        if all(one is judge for one in judges.values()):
            return judge
        return ByPart(judges=judges, max_unknown=min(one.max_unknown for one in judges.values()))

    def check_judge(self, judge: Judge) -> None:
        self._each(lambda name, part: part.check_judge(self.judges.get(name, judge)))

    def check_data(self, data: DataSource) -> None:
        self._each(lambda _, part: part.check_data(data))

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        def renamed(p: Example, name: str) -> Example:
            inner = f"{name}/{p.tags[PART]}" if PART in p.tags else name
            unit = p.tags.get(self.parts[name].shared_tag, p.id)
            return replace(p, id=f"{name}/{p.id}", tags={**p.tags, PART: inner, self.shared_tag: f"{name}/{unit}"})

        by_part = self._each(lambda _, benchmark: benchmark.prompts(data, part))
        return [renamed(prompt, name) for name, prompts in by_part.items() for prompt in prompts]

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        counts = self._each(lambda _, benchmark: benchmark.dropped(data, part))
        return {f"{name}: {reason}": count for name, reasons in counts.items() for reason, count in reasons.items()}

    def criterion(self, example: Example) -> str:
        name, part_example = inside(example)
        return self.parts[name].criterion(part_example)

    def pairs(self, data: DataSource, part: Part) -> list[Example]:
        """Each once, whichever parts have it."""
        pairs = self._each(lambda _, benchmark: benchmark.pairs(data, part))
        return list({pair.id: pair for part_pairs in pairs.values() for pair in part_pairs}.values())

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        return self._measured(judged, lambda part, rows: part.metrics(rows))

    def bounds(self, judged: Sequence[Judged]) -> Mapping[str, Bounds]:
        return self._measured(judged, lambda part, rows: part.bounds(rows))

    def breakdown(self, judged: Sequence[Judged]) -> dict[str, Estimate]:
        return self._measured(judged, lambda part, rows: part.breakdown(rows))

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        name, part_example = inside(Example("", (), (), {}, tags))
        outcomes = self.parts[name].outcomes(part_example.tags, verdict)
        return {f"{self.prefix.format(name)}{outcome}": holds for outcome, holds in outcomes.items()}

    def _each(self, of: Callable[[str, Benchmark], T]) -> dict[str, T]:
        """What each part says; a complaint names its options as they are called here."""
        values = {}
        for name, part in self.parts.items():
            try:
                values[name] = of(name, part)
            except (UserError, ValueError) as error:
                text = re.sub(r"benchmark\.(?=path|on_bad)", f"{self.place.format(name)}.", str(error))
                raise type(error)(text + self.advice.format(name)) from error
        return values

    def _measured(
        self, judged: Sequence[Judged], of: Callable[[Benchmark, Sequence[Judged]], Mapping[str, T]]
    ) -> dict[str, T]:
        rows: dict[str, list[Judged]] = {name: [] for name in self.parts}
        for row in judged:
            name, example = inside(row.example)
            rows[name].append(replace(row, example=example))
        made = {name: of(part, rows[name]) for name, part in self.parts.items()}
        return {f"{self.prefix.format(name)}{key}": value for name, one in made.items() for key, value in one.items()}


@options
class Panel(Composite):
    """Each member's metrics as `member.metric`; one with a rule of its own is judged by that, the others by `judge`."""

    name = "panel"
    place = "benchmark.members.{}"
    prefix = "{}."
    advice = "; or leave it out: benchmark.members.{}=null"
    members: Members = Field(default_factory=dict)
    judges: Judges = Field(default_factory=dict)  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(f"benchmark.members is empty: add some, as {HOW}")
        if others := self.judges.keys() - self.members.keys():
            raise UserError(f"benchmark.judges.{min(others)}: no such member; there are {', '.join(self.members)}")
        parts = self.parts.values()
        self.declare(
            measures=tuple(
                replace(metric, name=f"{name}.{metric.name}", label=f"{name}: {metric.label}")
                for name, part in self.parts.items()
                for metric in part.measures
            ),
            tags=tuple(dict.fromkeys(tag for part in parts for tag in part.tags)),
            needs=frozenset().union(*(part.needs for part in parts)),
            is_test_set=any(part.is_test_set for part in parts),
        )

    @cached_property
    def parts(self) -> Mapping[str, Benchmark]:
        return {name: member for name, member in self.members.items() if member is not None}
