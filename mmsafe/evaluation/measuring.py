"""From verdicts to the flat metrics of a run, with bounds where the judge could not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    found: dict[str, float] = {}
    for name, estimate in estimates.items():
        found[f"eval/{name}"] = estimate.value
        found[f"eval/{name}_low"] = estimate.low
        found[f"eval/{name}_high"] = estimate.high
        found[f"eval/{name}_n"] = estimate.n
    return found
