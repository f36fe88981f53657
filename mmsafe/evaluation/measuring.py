"""From verdicts to the flat metrics of a run, with bounds where the judge could not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmsafe.core.declared import Declared, undeclared
from mmsafe.evaluation.benchmark import Benchmark, Judged
from mmsafe.evaluation.statistics import Estimate, rate


def measured(benchmark: Benchmark, judged: Sequence[Judged], judge: str) -> dict[str, Any]:
    """The benchmark's metrics, flat; where verdicts are unknown, also how bad and how good each can in truth be.

    `eval/<name>_if_bad` and `eval/<name>_if_good`, of those over all prompts: see `Benchmark.bounds`.
    """
    found = {**flat(benchmark.breakdown(judged)), "eval/judge": judge}
    unknown = [row.verdict.unknown for row in judged]
    if (share := rate(unknown)) is not None:
        found |= flat({"unknown_rate": share})
    if any(unknown):
        for name, bounds in benchmark.bounds(judged).items():
            found |= {f"eval/{name}_if_bad": bounds.bad, f"eval/{name}_if_good": bounds.good}
    return found


def declaration(benchmark: Benchmark, judges: Mapping[str, str], metrics: Mapping[str, Any]) -> Declared:
    """What a run that measured `metrics` records: its metrics as declared, and what evidence each of `judges` is."""
    from mmsafe.evaluation.pairwise import MEASURES

    measures = {metric.name: metric for metric in benchmark.measures or undeclared(metrics).metrics}
    for pairwise in MEASURES:
        if pairwise.key in metrics:
            measures.setdefault(pairwise.name, pairwise)
    lines = {row.metric: row.lines() for row in benchmark.paper_rows}
    return Declared(tuple(replace(m, published=lines.get(m.key, m.published)) for m in measures.values()), judges)


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    found: dict[str, float] = {}
    for name, estimate in estimates.items():
        found[f"eval/{name}"] = estimate.value
        found[f"eval/{name}_low"] = estimate.low
        found[f"eval/{name}_high"] = estimate.high
        found[f"eval/{name}_n"] = estimate.n
    return found
