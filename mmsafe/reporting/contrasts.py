"""Differences of groups with their tests, and which of them were planned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmsafe.evaluation.multiplicity import CORRECTIONS, equivalence, smallest_found
from mmsafe.reporting.report_page import Cell, Table
from mmsafe.reporting.summary import Interval, Run, measured_in, note, paired_difference
from mmsafe.runs.plan import Correction, Plan

HEAD = ("group", "metric", "difference", "p", "corrected", "found from", "equivalence, p", "planned")
NOTE = (
    "paired by seed, ± half of the 95 % interval; p of paired t tests; corrected for their number, planned ones by "
    "themselves; found from: smallest true difference that so many seeds find in 80 % of experiments"
)


def contrasts(
    groups: Mapping[str, Sequence[Run]], against: str, correction: Correction = "holm", margin: float | None = None
) -> Table:
    """All differences from the group `against`; a plan's own go by its correction and margin."""
    recorded = dict(run.plan for runs in groups.values() for run in runs)
    families: dict[int, list[tuple[list[str], Interval]]] = {}
    plans: list[Plan | None] = [plan for plan in recorded.values() if plan] + [None]
    for name, metric in ((name, metric) for name in groups if name != against for metric in measured_in(groups)):
        if found := paired_difference(groups[name], groups[against], metric.key):
            place = next(i for i, plan in enumerate(plans) if not plan or plan.holds(name, against, metric.key))
            families.setdefault(place, []).append(([name, metric.label, str(found)], found))
    rows = []
    for place, family in sorted(families.items()):
        plan = plans[place]
        corrected = CORRECTIONS[plan.correction if plan else correction]([found.p for _, found in family])
        told = "yes" if plan else "exploratory" if any(recorded) else ""
        for (words, found), p in zip(family, corrected, strict=True):
            rows.append([*words, *_tests(found, p, plan.margin if plan else margin), told])
    cells = [[Cell(text) for text in row] for row in rows]
    return Table(f"Difference from {against}", HEAD, cells, note(groups, NOTE))


def _tests(found: Interval, corrected: float, margin: float | None) -> list[str]:
    """p, corrected p, the smallest difference that would be found, and p of equivalence; a dash where none is known."""
    if math.isnan(found.p):
        return ["–"] * 4
    alike = f"{equivalence(found.mean, found.half, found.n - 1, margin):.2g}" if margin else "–"
    return [f"{found.p:.2g}", f"{corrected:.2g}", f"{smallest_found(found.half, found.n - 1):.3f}", alike]
