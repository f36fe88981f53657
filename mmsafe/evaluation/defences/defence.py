"""The interface of a defence: what a file in `conf/defence/` configures. It changes answers and trains nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.clusters import clusters_of
from mmsafe.evaluation.dialogue import Answer, DefendedAnswer
from mmsafe.evaluation.judges.judge import EXACT, Case, Judge, Verdict, single
from mmsafe.evaluation.judging import refuse_unknown, verdicts_on
from mmsafe.evaluation.leakage import BLIND
from mmsafe.evaluation.stages import GENERATION, GENERATIONS, read_rows
from mmsafe.evaluation.statistics import Estimate, rate

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

FIRST = "answers"
"""The stage in which the model answers by itself."""
MEASURES = (
    Metric("defence_stepped_in", "defence stepped in", judged=False),
    Metric("generations_per_prompt", "generations per prompt", "lower", judged=False),
)


@dataclass(frozen=True)
class Answerer:
    """The model under evaluation, as a defence asks it; prompts keep the id of the one that they serve."""

    ask: Callable[..., list[Response]]
    """Of prompts and the name of the stage; `temperature` and `seed` are the evaluation's unless given."""
    set_aside: Callable[[], AbstractContextManager[None]] = nullcontext
    """Frees the devices for a judge."""
    generations: Counter[str] = field(default_factory=Counter)

    def __call__(self, prompts: Sequence[Example], stage: str, **sampling: float) -> list[Response]:
        """A response to every prompt, kept as all answers are; equal prompts are sampled as often as they are given."""
        self.generations.update(prompt.id for prompt in prompts)
        return self.ask(prompts, stage, **sampling)

    def verdicts(self, judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
        """What `judge` says of every case; raises `UserError` where too much is unknown."""
        with self.set_aside() if judge.on_devices else nullcontext():
            verdicts = verdicts_on(cases, judge)
        judged = [Judged(case.example, case.response, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
        refuse_unknown(judged, judge.label, judge.max_unknown)
        return verdicts


@options
class Defence(ABC):
    """Lets a model answer, and puts other answers in the place of some."""

    name: ClassVar[str]

    @property
    def judges(self) -> Sequence[Judge]:
        """Those by whose verdicts it chooses."""
        return ()

    def check_judge(self, judge: Judge) -> None:
        """Raise `UserError` if `judge` cannot measure what this defence answers."""
        refuse_selector({one.label for chooser in self.judges for one in single(chooser)}, judge)

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Example], first: Sequence[Response], ask: Answerer
    ) -> Mapping[int, tuple[str, bool]]:
        """By position, what takes the place of the model's `first` answer, and whether it ended by itself."""

    def answers(self, prompts: Sequence[Example], ask: Answerer) -> list[Answer]:
        """The final answer to every prompt, and how it came about."""
        first = ask(prompts, FIRST)
        final, answers = self(prompts, first, ask), []
        for i, (prompt, response) in enumerate(zip(prompts, first, strict=True)):
            how: DefendedAnswer = {
                "defence": self.name,
                "chosen_by": sorted({one.label for judge in self.judges for one in single(judge)}),
                "first": response.text,
                "stepped_in": i in final,
                "generations": ask.generations[prompt.id],
            }
            answers.append(Answer(*final.get(i, (response.text, response.finished)), how=how))
        return answers


def refuse_selector(chosen_by: set[str], judge: Judge) -> None:
    """Raise `UserError` if one who chose the answers is to measure them, unless its verdicts are the truth."""
    for one in single(judge):
        if one.label in chosen_by and one.evidence != EXACT:
            why = "is the judge by which the defence chose these answers, and would measure its own choice"
            raise UserError(f"judge={one.name}: {one.label} {why}; give another judge, or another defence.judge")


def of_defence(folder: Path, by: Sequence[str] = ()) -> tuple[set[str], dict[str, Estimate]]:
    """Labels of the judges who chose the answers in a run folder, and what its defence, if it had one, did and cost.

    How often it stepped in, for clusters by the tags `by`, and how many answers a final one took: a count, whose
    interval is itself.
    """
    every = read_rows(folder / GENERATIONS, GENERATION).values()
    rows = [(row, row["defence"]) for row in every if "defence" in row and BLIND not in row["tags"]]
    clusters = [clusters_of(row["id"], row["tags"], by) for row, _ in rows]
    if (share := rate([how["stepped_in"] for _, how in rows], clusters)) is None:
        return set(), {}
    each = sum(how["generations"] for _, how in rows) / len(rows)
    costs = share, Estimate(each, each, each, len(rows))
    chosen_by = {label for _, how in rows for label in how["chosen_by"]}
    return chosen_by, {measure.name: cost for measure, cost in zip(MEASURES, costs, strict=True)}


def with_request(prompt: Example, text: str) -> Example:
    """The prompt with other words in its last turn, before which its images stand."""
    *before, last = prompt.turns
    return replace(prompt, turns=(*before, replace(last, text=text, images=(0,) * len(last.images))))
