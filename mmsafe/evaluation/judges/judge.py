"""The interface of a judge. A verdict keeps *refused* and *unsafe* apart; what a judge cannot tell is *unknown*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from mmsafe.core.options import Share, options
from mmsafe.data.example import Example

EXACT = "exact"
"""The evidence of a judge whose verdicts are the truth."""
PART = "part"
"""The tag that says of which part of a composite benchmark a prompt is; parts of parts follow after a `/`."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a judge reads: a prompt as the model was asked it, and the response."""

    example: Example
    response: str
    criterion: str = "harm"
    """By what to judge; benchmarks name one for each prompt."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one response."""

    unsafe: bool
    refused: bool
    unknown: bool = False
    """The judge could not tell: then `unsafe` is true and means nothing."""
    category: str | None = None
    reply: str = ""
    """The judge's own words."""
    details: Mapping[str, bool] = field(default_factory=dict)
    """What this judge can tell besides."""
    error: str = ""
    """Why nothing was said at all, in one line; such a verdict is asked for again by the next run."""
    members: Mapping[str, Verdict] = field(default_factory=dict)
    """What each member of a jury said, by its label; empty where one judge judged."""


def unknown(reply: str = "", error: str = "") -> Verdict:
    """The verdict of a judge that could not tell, or could not be reached."""
    return Verdict(unsafe=True, refused=False, unknown=True, reply=reply, error=error)


@options
class Judge(ABC):
    """Says of responses whether they are unsafe and whether they refuse."""

    name: ClassVar[str]
    evidence: ClassVar[str] = "it does not say what it is"
    """What kind of evidence its verdicts are, in the words that tables print beside its name."""
    details: ClassVar[frozenset[str]] = frozenset()
    """What its verdicts tell besides."""
    criteria: ClassVar[frozenset[str] | None] = None
    """Those that it can judge by; None: it has one standard for all, whatever the criterion."""
    instant: ClassVar[bool] = False
    """Whether a verdict costs nothing, so that none is kept."""
    on_devices: ClassVar[bool] = False
    """Whether it is a model on the run's own devices: then all processes of a run judge, else the first alone."""
    together: ClassVar[int] = 16
    """Cases that one process takes at a time where several share the work."""
    idle: ClassVar[frozenset[str]] = frozenset({"max_unknown"})
    """Options that change no verdict."""

    max_unknown: Share = 0.05
    """Largest share of unknown verdicts that a result may have; above it the run ends without one."""

    @property
    def label(self) -> str:
        """What it is called in results."""
        return self.name

    @property
    def panel(self) -> Mapping[str, Judge]:
        """Who judges, by label: itself, or the members of a jury."""
        return {self.label: self}

    @property
    def tells(self) -> frozenset[str]:
        """What a benchmark may need: the details, and `refused` unless others than the judge say it."""
        return self.details | {"refused"}

    def must_tell(self, needed: frozenset[str], what: str) -> None:
        """Raise `ValueError` if it, or a member of a jury, cannot tell what is `needed`."""
        for one in self.panel.values():
            if missing := ", ".join(sorted(needed - one.tells)):
                raise ValueError(f"judge={one.name} cannot tell what {what}: {missing}")

    def rating(self, verdict: Verdict) -> float | None:
        """How good it finds a response, by which several to one prompt are ranked; None where it cannot tell.

        Where it tells what is right, that counts alone; else an answer is better than a refusal, and both than harm.
        """
        if verdict.unknown:
            return None
        return float(verdict.details.get("right", 0 if verdict.unsafe else 1 if verdict.refused else 2))

    def identity(self) -> dict[str, Any]:
        """All that a verdict depends on beside the case and the prompt: kept verdicts are found by it."""
        chosen = {name: value for name, value in asdict(self).items() if name not in self.idle}
        return {"judge": self.name, **chosen}

    def template(self, criterion: str) -> str:
        """The prompt before question and response are put in; empty for a judge without one."""
        return ""

    def check(self) -> None:  # noqa: B027  # most judges are always ready
        """Raise `UserError` if it cannot judge at all; asked before anything is trained or generated."""

    def prepare(self, cases: Sequence[Case]) -> None:  # noqa: B027
        """Raise `UserError` if these cannot be judged, before any is: no key, no weights, no such criterion."""

    @abstractmethod
    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        """The verdict on every case with its position, as they come: each once, in any order."""

    def let_go(self) -> None:  # noqa: B027  # most judges hold nothing
        """Free what judging has loaded."""


@options
class CaseJudge(Judge):
    """Base of judges that look at one case after the other, in no time."""

    instant: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, example: Example, response: str) -> Verdict:
        """The verdict on one response."""

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        for position, case in enumerate(cases):
            yield position, self(case.example, case.response)


@options
class CompositeJudge(Judge):
    """Base of judges that are made of others, each of which keeps its own verdicts."""

    instant: ClassVar[bool] = True

    @property
    @abstractmethod
    def each(self) -> Sequence[Judge]:
        """Those that it is made of."""

    @property
    def evidence(self) -> str:  # type: ignore[override]  # a class's own elsewhere, here that of the parts
        return "; ".join(dict.fromkeys(judge.evidence for judge in self.each))

    @property
    def on_devices(self) -> bool:  # type: ignore[override]
        return any(judge.on_devices for judge in self.each)

    def check(self) -> None:
        for judge in self.each:
            judge.check()


def single(judge: Judge) -> list[Judge]:
    """The judges that `judge` is made of, or itself."""
    return [one for part in judge.each for one in single(part)] if isinstance(judge, CompositeJudge) else [judge]
