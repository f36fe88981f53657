"""What an evaluation measures, and how verdicts become the flat metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmsafe.core.declared import Declared, undeclared
from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.leakage import BLIND, leakage, with_blind
from mmsafe.evaluation.leakage import MEASURES as LEAKAGE
from mmsafe.evaluation.statistics import Estimate, rate
from mmsafe.scoring.ways import Scoring

NO_LIMIT = Lengths(max_length=None)


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

    def prompts(self) -> list[Example]:
        """What the model is asked."""
        prompts = self.benchmark.prompts(self.data, self.part)
        return with_blind(self.benchmark, prompts) if self.leakage else prompts

    def dropped(self) -> dict[str, int]:
        """How many rows that should have made prompts were dropped for which reason."""
        return self.benchmark.dropped(self.data, self.part)


def measured(benchmark: Benchmark, judged: Sequence[Judged], judge: str) -> dict[str, Any]:
    """The benchmark's metrics, flat; where verdicts are unknown, also how bad and how good each can in truth be.

    `eval/<name>_if_bad` and `eval/<name>_if_good`, of those over all prompts: see `Benchmark.bounds`.
    """
    blind = flat(leakage(benchmark, judged)) if any(BLIND in row.example.tags for row in judged) else {}
    judged = [row for row in judged if BLIND not in row.example.tags]
    metrics = {**flat(benchmark.breakdown(judged)), **blind, "eval/judge": judge}
    unknown = [row.verdict.unknown for row in judged]
    if (share := rate(unknown)) is not None:
        metrics |= flat({"unknown_rate": share})
    if any(unknown):
        for name, bounds in benchmark.bounds(judged).items():
            metrics |= {f"eval/{name}_if_bad": bounds.bad, f"eval/{name}_if_good": bounds.good}
    return metrics


def declaration(benchmark: Benchmark, judges: Mapping[str, str], metrics: Mapping[str, Any]) -> Declared:
    """What a run that measured `metrics` records: its metrics as declared, and what evidence each of `judges` is."""
    from mmsafe.evaluation.pairwise import MEASURES

    measures = {metric.name: metric for metric in benchmark.measures or undeclared(metrics).metrics}
    for metric in (*MEASURES, *LEAKAGE):
        if metric.key in metrics:
            measures.setdefault(metric.name, metric)
    lines = {row.metric: row.lines() for row in benchmark.paper_rows}
    return Declared(tuple(replace(m, published=lines.get(m.key, m.published)) for m in measures.values()), judges)


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    ends = {"": "value", "_low": "low", "_high": "high", "_n": "n"}
    return {
        f"eval/{name}{end}": getattr(estimate, field)
        for name, estimate in estimates.items()
        for end, field in ends.items()
    }
