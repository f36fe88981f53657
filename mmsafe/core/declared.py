"""What a benchmark measures and what a judge is: declared by them, recorded by a run, read by tables and figures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_csv
from mmsafe.core.run_record import ABOUT, JUDGE, about_run

DECLARED = "declared"
"""The key of the record in `run.json`."""
BESIDE = ("_low", "_high", "_n", "_if_bad", "_if_good")
"""Ends of the names that stand beside an estimate's own."""
BY_TAG = "metrics_by_tag.csv"
BY_JUDGE = "/judge="
"""Behind a metric's name and before the label of a member of a jury, or before two: a tag like others."""
TAGGED = re.compile(r"eval/([^/]+)/([^/=]+)=(.*)")
Axis = Literal["safety", "over-refusal", "utility"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, as it is to be shown; in `metrics.json` it is `eval/<name>`, or its name if that has a `/`."""

    name: str
    label: str
    better: Literal["higher", "lower"] | None = None
    """None: neither is better by itself."""
    by_tag: bool = False
    """Whether a printed table shows it by tag, too; `metrics.json` and `metrics_by_tag.csv` always have it."""
    is_score: bool = False
    """Whether it is the one number by which a run is called better than another."""
    axis: Axis | None = None
    """What it tells of, if one of them; the first of each makes the planes of figures and a search's default."""
    judged: bool = True
    """Whether it is made of verdicts, so that tables and figures of it name the judge."""
    published: Mapping[str, float] = field(default_factory=dict)
    """What papers report, by what a figure calls it."""

    @property
    def key(self) -> str:
        """Its name in `metrics.json`."""
        return self.name if "/" in self.name else f"eval/{self.name}"


@dataclass(frozen=True)
class Declared:
    """What is declared of the results of one run, or of several."""

    metrics: tuple[Metric, ...] = ()
    """In the order in which they are shown."""
    judges: Mapping[str, str] = field(default_factory=dict)
    """By a judge's label, what kind of evidence its verdicts are."""
    clusters: tuple[str, ...] = ()
    """Tags by which prompts come in clusters, for which intervals hold; none: prompts are taken for independent."""

    def measured(self, runs: Iterable[Mapping[str, Any]]) -> list[Metric]:
        """The metrics that any of these runs measured."""
        keys = {key for metrics in runs for key in metrics}
        return [metric for metric in self.metrics if metric.key in keys]

    def axis(self, axis: Axis) -> Metric | None:
        """The metric that stands for this axis."""
        return next((metric for metric in self.metrics if metric.axis == axis), None)

    def objectives(self) -> list[Metric]:
        """What a search is for by default: a metric of each axis, else the score."""
        axes = [metric for axis in get_args(Axis) if (metric := self.axis(axis)) is not None]
        return axes or [metric for metric in self.metrics if metric.is_score][:1]

    def score(self, metrics: Mapping[str, Any]) -> tuple[str, float] | None:
        """The name and value of the score that was measured, of which more is better; None if none was."""
        best = next((metric for metric in self.metrics if metric.is_score and metric.key in metrics), None)
        if best is None:
            return None
        return best.key, (-1 if best.better == "lower" else 1) * float(metrics[best.key])

    def judged_by(self, runs: Sequence[Mapping[str, Any]], shown: Sequence[Metric] | None = None) -> str | None:
        """Who judged what is `shown`, all that was measured if None, and what kind of evidence that is.

        None if nothing was judged.
        """
        shown = self.measured(runs) if shown is None else shown
        if shown and not any(metric.judged for metric in shown):
            return None
        names = sorted({str(metrics[JUDGE]) for metrics in runs if JUDGE in metrics})
        labels = (f"{name} ({self.judges[name]})" if name in self.judges else name for name in names)
        return "judge: " + ", ".join(labels) if names else None

    def record(self) -> dict[str, Any]:
        """As plain values for `run.json`."""
        return asdict(self)


RECORD = TypeAdapter(Declared)


def declared_in(about: Mapping[str, Any], metrics: Mapping[str, Any], folder: Path) -> Declared:
    """What the `run.json` of a folder records; of a run of an earlier version, which has no record, `undeclared`.

    Raises `UserError` if the record is damaged.
    """
    if DECLARED not in about:
        return undeclared(metrics)
    try:
        return RECORD.validate_python(about[DECLARED])
    except ValidationError as error:
        raise UserError(f"{folder / ABOUT}: is damaged: '{DECLARED}' is no record of metrics; move it away") from error


def declared_of(folder: Path, metrics: Mapping[str, Any]) -> Declared:
    """The same of a folder whose `metrics.json` says `metrics`."""
    return declared_in(about_run(folder), metrics, folder)


def undeclared(metrics: Mapping[str, Any]) -> Declared:
    """All that was measured over all prompts, by names made of the metrics' own."""
    names = [key.removeprefix("eval/") for key in metrics if key.startswith("eval/") and key != JUDGE]
    ends = {f"{name}{end}" for name in names for end in BESIDE}
    main = [name for name in names if "/" not in name and name not in ends]
    return Declared(tuple(Metric(name, name.replace("_", " "), by_tag=True) for name in main))


def together(all_declared: Iterable[Declared]) -> Declared:
    """What several runs declare; of a metric that several do, what the first one says."""
    metrics: dict[str, Metric] = {}
    judges: dict[str, str] = {}
    clusters: dict[str, None] = {}
    for declared in all_declared:
        metrics |= {metric.name: metric for metric in declared.metrics if metric.name not in metrics}
        judges |= declared.judges
        clusters |= dict.fromkeys(declared.clusters)
    return Declared(tuple(metrics.values()), judges, tuple(clusters))


class Measured(NamedTuple):
    """A metric on the prompts whose tag has this value, with its 95 % interval; the fields are the file's columns."""

    tag: str
    value: str
    metric: str
    estimate: float
    low: float
    high: float
    n: float
    judge: str


def by_tag(metrics: Mapping[str, Any], declared: Declared | None = None) -> dict[str, Measured]:
    """What `metrics.json` says by tag, by its name there; sorted by tag, value and metric.

    No judge stands beside what is declared not to be judged, nor beside other forms of that, whose names begin with it.
    """
    measured, unjudged = {}, tuple(metric.name for metric in declared.metrics if not metric.judged) if declared else ()
    for key in metrics:
        # A name with its count beside it is that of an estimate, whatever a value ends with.
        if (match := TAGGED.fullmatch(key)) and f"{key}_n" in metrics:
            low, high, n = (metrics[f"{key}_{end}"] for end in ("low", "high", "n"))
            main_judge = "" if match[1].startswith(unjudged) else str(metrics.get(JUDGE, ""))
            judge = match[3] if f"/{match[2]}=" == BY_JUDGE else main_judge
            measured[key] = Measured(match[2], match[3], match[1], metrics[key], low, high, n, judge)
    return dict(sorted(measured.items(), key=lambda item: item[1][:3]))


def write_by_tag(folder: Path, metrics: Mapping[str, Any], declared: Declared | None = None) -> None:
    """`metrics_by_tag.csv`, where anything was measured by tag."""
    if rows := by_tag(metrics, declared):
        write_csv(folder / BY_TAG, [Measured._fields, *rows.values()])
