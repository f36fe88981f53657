"""Differences of groups with their tests, and which of them were planned."""

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
    plans: list[Plan | None] = [*filter(None, recorded.values()), None]
    families: dict[int, list[tuple[list[Cell], Interval]]] = {}
    for name, metric in ((name, metric) for name in groups if name != against for metric in measured_in(groups)):
        if gain := paired_difference(groups[name], groups[against], metric.key):
            runs = (*groups[name], *groups[against])
            common = next((plan for plan in plans if all(run.plan[1] == plan for run in runs)), None)
            plan = common if common and common.holds(name, against, metric.key) else None
            shown = [Cell(name), Cell(metric.label), Cell(str(gain), gain.mean, metric.key, runs)]
            families.setdefault(plans.index(plan), []).append((shown, gain))
    rows = []
    for place, family in sorted(families.items()):
        plan = plans[place]
        corrected = CORRECTIONS[plan.correction if plan else correction]([gain.p for _, gain in family])
        planned = "yes" if plan else "exploratory" if any(recorded) else ""
        for (shown, gain), p in zip(family, corrected, strict=True):
            tests = _tests(gain, p, plan.margin if plan else margin)
            rows.append([*shown, *map(Cell, tests), Cell(planned)])
    return Table(f"Difference from {against}", HEAD, rows, note(groups, NOTE))


def _tests(gain: Interval, corrected: float, margin: float | None) -> list[str]:
    """p, corrected p, the smallest difference that would be found, and p of equivalence; a dash where none is known."""
    if math.isnan(gain.p):
        return ["–"] * 4
    alike = f"{equivalence(gain.mean, gain.half, gain.n - 1, margin):.2g}" if margin else "–"
    return [f"{gain.p:.2g}", f"{corrected:.2g}", f"{smallest_found(gain.half, gain.n - 1):.3f}", alike]
