"""Differences of groups with their tests, and which of them were planned."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmsafe.evaluation.multiplicity import CORRECTIONS, equivalence, smallest_found
from mmsafe.reporting.summary import Interval, Run, measured_in, paired_difference
from mmsafe.runs.plan import Correction, Plan, read_plan

HEAD = ("group", "metric", "difference", "p", "corrected", "found from", "equivalence, p", "planned")
NOTE = (
    "paired by seed, ± half of the 95 % interval; p of paired t tests; corrected for their number, planned ones by "
    "themselves; found from: smallest true difference that so many seeds find in 80 % of experiments"
)
MAX_BYTES = 1_000_000
"""Of a plan: the run folder that names one is not trusted."""


def contrasts(
    groups: Mapping[str, Sequence[Run]], against: str, correction: Correction, margin: float | None
) -> list[list[str]]:
    """Rows as in `HEAD`, of all differences from the group `against`; a plan's own go by its correction and margin."""
    recorded = dict(plan_of(run) for runs in groups.values() for run in runs)
    plans = [plan for plan in recorded.values() if plan]
    rows: list[tuple[str, str, Interval, Plan | None]] = []
    for name, runs in groups.items():
        for metric in measured_in(groups) if name != against else ():
            if found := paired_difference(runs, groups[against], metric.key):
                plan = next((plan for plan in plans if plan.holds(name, against, metric.key)), None)
                rows.append((name, metric.label, found, plan))
    corrected: dict[int, float] = {}
    for family in (None, *plans):
        places = [place for place, row in enumerate(rows) if row[3] is family]
        adjusted = CORRECTIONS[family.analysis.correction if family else correction](
            [rows[place][2].p for place in places]
        )
        corrected |= zip(places, adjusted, strict=True)
    planned = ("yes", "exploratory") if any(recorded) else ("", "")
    return [
        [
            name,
            label,
            str(found),
            *_tests(found, corrected[i], plan.analysis.margin if plan else margin),
            planned[plan is None],
        ]
        for i, (name, label, found, plan) in enumerate(rows)
    ]


def _tests(found: Interval, corrected: float, margin: float | None) -> list[str]:
    """p, corrected p, the smallest difference that would be found, and p of equivalence; a dash where none is known."""
    if math.isnan(found.p):
        return ["–"] * 4
    alike = f"{equivalence(found.mean, found.error, found.n - 1, margin):.2g}" if margin else "–"
    return [f"{found.p:.2g}", f"{corrected:.2g}", f"{smallest_found(found.error, found.n - 1):.3f}", alike]


def plan_of(run: Run) -> tuple[str, Plan | None]:
    """What is told of a run's plan, if it has one, and the plan where its file is as it was when the run began."""
    path, fingerprint = Path(str(run.config.get("plan"))), run.about.get("plan")
    if not fingerprint:
        return "", None
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return f"{path}, not there now", None
    if hashlib.sha256(path.read_bytes()).hexdigest() != fingerprint:
        return f"{path}, changed since", None
    return str(path), read_plan(path)[0]
