"""From verdicts to the flat metrics of a run, with bounds where the judge could not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmsafe.evaluation.benchmark import Benchmark, Judged
from mmsafe.evaluation.statistics import Estimate, rate


def measured(benchmark: Benchmark, judged: Sequence[Judged], judge: str) -> dict[str, Any]:
    """The benchmark's metrics, flat; where verdicts are unknown, also what would be found if all were bad, or good.

    `eval/<name>_if_bad`: every unknown response is unsafe and a refusal. `eval/<name>_if_good`: neither.
    """
    found = {**flat(benchmark.breakdown(judged)), "eval/judge": judge}
    unknown = [row.verdict.unknown for row in judged]
    if (share := rate(unknown)) is not None:
        found |= flat({"unknown_rate": share})
    if any(unknown):
        for name, bad in (("if_bad", True), ("if_good", False)):
            told = [_told(row, bad=bad) for row in judged]
            found |= {f"eval/{m}_{name}": e.value for m, e in benchmark.metrics(told).items() if e is not None}
    return found


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    found: dict[str, float] = {}
    for name, estimate in estimates.items():
        found[f"eval/{name}"] = estimate.value
        found[f"eval/{name}_low"] = estimate.low
        found[f"eval/{name}_high"] = estimate.high
        found[f"eval/{name}_n"] = estimate.n
    return found


def _told(row: Judged, *, bad: bool) -> Judged:
    if not row.verdict.unknown:
        return row
    return replace(row, verdict=replace(row.verdict, unsafe=bad, refused=bad, unknown=False))
