"""What an evaluation measures, and how verdicts become the flat metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mmsafe.core.declared import BY_JUDGE, Declared, Metric, undeclared
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.clusters import clusters_of
from mmsafe.evaluation.defences.defence import FIRST, Answerer, Defence
from mmsafe.evaluation.defences.defence import MEASURES as DEFENCE
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.leakage import BLIND, leakage, with_blind
from mmsafe.evaluation.leakage import MEASURES as LEAKAGE
from mmsafe.evaluation.statistics import Estimate, fleiss_kappa, kappa, rate
from mmsafe.scoring.ways import Scoring

if TYPE_CHECKING:
    from mmsafe.evaluation.dialogue import Answer
    from mmsafe.generation.generate import Response

NO_LIMIT = Lengths(max_length=None)
AGREEMENT = (
    Metric("fleiss_kappa", "Fleiss' κ of all judges", "higher"),
    Metric("cohen_kappa", "Cohen's κ of two judges", "higher"),
)


@dataclass(frozen=True)
class EvaluationTask:
    """A benchmark on a part of the data, its judge, and how the model is asked and scored."""

    benchmark: Benchmark
    data: DataSource
    part: Part
    judge: Judge
    scoring: Scoring
    settings: Evaluation
    lengths: Lengths = NO_LIMIT
    """Prompts that leave no room for an answer are not asked; pairs that do not fit whole are left out."""
    precision: str = "32-true"
    """Arithmetic of log-probs, which a reference has to share."""
    leakage: bool = False
    """Whether prompts are also asked without their image, and how much is decided then is measured."""
    defence: Defence | None = None
    """What changes the model's answers before they are judged."""

    def __post_init__(self) -> None:
        if self.benchmark.sampled and self.settings.temperature == 0:
            raise UserError("benchmark.answers: greedy decoding says the same every time; set evaluation.temperature=1")

    def check(self) -> None:
        """Raise `UserError` if its judge, or that of its defence, cannot judge at all."""
        for judge in (self.judge, *(self.defence.judges if self.defence else ())):
            judge.check()

    def prompts(self) -> list[Example]:
        """What the model is asked."""
        return self._prompts

    @cached_property
    def _prompts(self) -> list[Example]:
        prompts = self.benchmark.prompts(self.data, self.part)
        return with_blind(self.benchmark, prompts) if self.leakage else prompts

    def answers(self, prompts: Sequence[Example], ask: Answerer) -> Sequence[Response | Answer]:
        """The model's answers, or what the defence makes of them."""
        return self.defence.answers(prompts, ask) if self.defence else ask(prompts, FIRST)

    @cached_property
    def clusters(self) -> tuple[str, ...]:
        """The tags by which the data's rows come in clusters, as far as prompts have them."""
        prompts = self.prompts() if self.data.clusters else []
        return tuple(tag for tag in self.data.clusters if any(tag in prompt.tags for prompt in prompts))

    def dropped(self) -> dict[str, int]:
        """How many rows that should have made prompts were dropped for which reason."""
        return self.benchmark.dropped(self.data, self.part)


def measured(benchmark: Benchmark, judged: Sequence[Judged], judge: str, by: Sequence[str] = ()) -> dict[str, Any]:
    """The benchmark's metrics, flat; where verdicts are unknown, also how bad and how good each can in truth be.

    `eval/<name>_if_bad` and `eval/<name>_if_good`, of those over all prompts: see `Benchmark.bounds`.
    Intervals hold for prompts that come in clusters by the tags `by`.
    """
    judged = [replace(row, clusters=clusters_of(row.example.id, row.example.tags, by)) for row in judged]
    blind = flat(leakage(benchmark, judged)) if any(BLIND in row.example.tags for row in judged) else {}
    judged = [row for row in judged if BLIND not in row.example.tags]
    metrics = {**flat(benchmark.breakdown(judged)), **blind, "eval/judge": judge}
    unknown = [row.verdict.unknown for row in judged]
    if (share := rate(unknown, [row.clusters for row in judged])) is not None:
        metrics |= flat({"unknown_rate": share})
    if any(unknown):
        for name, bounds in benchmark.bounds(judged).items():
            metrics |= {f"eval/{name}_if_bad": bounds.bad, f"eval/{name}_if_good": bounds.good}
    return metrics | flat(by_judge(benchmark, judged))


def panel_of(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    """The same answers with the verdicts of each member of a jury, by its label; empty where one judge judged."""
    labels = dict.fromkeys(label for row in judged for label in row.verdict.members)
    return {one: [replace(row, verdict=row.verdict.members.get(one, row.verdict)) for row in judged] for one in labels}


def by_judge(benchmark: Benchmark, judged: Sequence[Judged]) -> dict[str, Estimate]:
    """The metrics over all prompts by each member of a jury, and how far the members agree beyond chance.

    Two agree where both say the same of `unsafe`, and of `refused` where the benchmark needs it, or both cannot tell.
    """
    panel, questions = panel_of(judged), ("unsafe", *sorted(benchmark.needs & {"refused"}))
    estimates: dict[str, Estimate | None] = {}
    labels: dict[str, list[str]] = {}
    for label, rows in panel.items():
        unknown = rate([row.verdict.unknown for row in rows], [row.clusters for row in rows])
        metrics = {**benchmark.metrics(rows), "unknown_rate": unknown}
        estimates |= {f"{name}{BY_JUDGE}{label}": estimate for name, estimate in metrics.items()}
        verdicts = [row.verdict for row, whole in zip(rows, judged, strict=True) if whole.verdict.members]
        labels[label] = ["?" if v.unknown else str([getattr(v, question) for question in questions]) for v in verdicts]
    estimates["fleiss_kappa"] = fleiss_kappa([*labels.values()])
    estimates |= {f"cohen_kappa{BY_JUDGE}{a} | {b}": kappa(labels[a], labels[b]) for a, b in combinations(labels, 2)}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def declaration(benchmark: Benchmark, judges: Mapping[str, str], metrics: Mapping[str, Any]) -> Declared:
    """What a run that measured `metrics` records: its metrics as declared, and what evidence each of `judges` is."""
    from mmsafe.evaluation import pairwise, third_responses

    measures = {metric.name: metric for metric in benchmark.measures or undeclared(metrics).metrics}
    for beside in (*pairwise.MEASURES, *AGREEMENT, *LEAKAGE, *DEFENCE, *third_responses.MEASURES):
        if any(name == beside.key or name.startswith(f"{beside.key}{BY_JUDGE}") for name in metrics):
            measures.setdefault(beside.name, beside)
    lines = {row.metric: row.lines() for row in benchmark.paper_rows}
    return Declared(tuple(replace(m, published=lines.get(m.key, m.published)) for m in measures.values()), judges)


def flat(estimates: Mapping[str, Estimate], prefix: str = "eval") -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    ends = {"": "value", "_low": "low", "_high": "high", "_n": "n"}
    return {
        f"{prefix}/{name}{end}": getattr(estimate, field)
        for name, estimate in estimates.items()
        for end, field in ends.items()
    }
