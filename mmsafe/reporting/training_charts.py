"""How runs were trained, drawn from their `metrics.csv`: loss terms, rewards, margins, accuracies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmsafe.core.files import STEP, read_metrics
from mmsafe.reporting.figures import Chart, Curve, curves
from mmsafe.reporting.summary import Run

Rows = Sequence[Mapping[str, float]]
POINTS = 300
"""Of a curve at most; where there are more steps, a point is the mean of neighbours."""
KINDS = {
    "loss": r"train/loss(/.*)?|loss/.*",
    "margins": r"rewards/margins(/.*)?",
    "accuracies": r"rewards/accuracies(/.*)?",
    "gradient norm": r"train/grad_norm",
}
REWARD = re.compile(r"rewards/(?!margins|accuracies)(.*)")
ORDER = ("chosen", "rejected", "blind")


def of_training(groups: Mapping[str, Sequence[Run]]) -> list[Chart]:
    """A panel for each group with its rewards, and one for each other metric with a curve for each group."""
    rows = {name: [read_metrics(run.path / "metrics.csv") for run in runs] for name, runs in groups.items()}
    trained = {name: [found for found in seeds if _names([found])] for name, seeds in rows.items()}
    trained = {name: seeds for name, seeds in trained.items() if seeds}
    everything = [found for seeds in trained.values() for found in seeds]
    metrics = [name for pattern in KINDS.values() for name in _names(everything, pattern)]
    styles = {name: number for number, name in enumerate(groups)}  # as in the figures of results
    return [*_rewards(trained), *(_metric(trained, metric, styles) for metric in metrics)]


def thinned(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most so many points, each the mean of as many neighbours as the others (the last of what is left)."""
    size = -(-len(x) // points)
    parts = [slice(start, start + size) for start in range(0, len(x), max(1, size))]
    return [sum(x[part]) / len(x[part]) for part in parts], [sum(y[part]) / len(y[part]) for part in parts]


def _rewards(trained: Mapping[str, Sequence[Rows]]) -> list[Chart]:
    found = []
    for number, (group, seeds) in enumerate(trained.items()):
        names = sorted(_names(seeds, REWARD.pattern), key=lambda name: (*_place(name), name))
        drawn = [curve for style, name in enumerate(names) for curve in _seeds(seeds, name, _response(name), style)]
        if drawn:
            found.append(curves(f"rewards-{number}", f"rewards: {group}", drawn, x="step", caption=_caption(seeds)))
    return found


def _metric(trained: Mapping[str, Sequence[Rows]], metric: str, styles: Mapping[str, int]) -> Chart:
    drawn = [curve for group, seeds in trained.items() for curve in _seeds(seeds, metric, group, styles[group])]
    caption = _caption([found for seeds in trained.values() for found in seeds])
    return curves(f"training-{metric.replace('/', '-')}", metric, drawn, x="step", caption=caption)


def _seeds(seeds: Sequence[Rows], metric: str, label: str, style: int) -> list[Curve]:
    """The mean over the seeds at the steps that all of them have, and each of several faintly."""
    by_seed = [{row[STEP]: row[metric] for row in rows if metric in row} for rows in seeds]
    by_seed = [values for values in by_seed if values]
    if not by_seed:
        return []
    shared = sorted(set.intersection(*(set(values) for values in by_seed)))
    mean = [sum(values[step] for values in by_seed) / len(by_seed) for step in shared]
    faint = [Curve(label, *thinned(list(values), list(values.values())), style, faint=True) for values in by_seed]
    return [Curve(label, *thinned(shared, mean), style), *(faint if len(faint) > 1 else [])]


def _names(runs: Sequence[Rows], pattern: str = r"train/.*|loss/.*|rewards/.*") -> list[str]:
    names = dict.fromkeys(name for rows in runs for row in rows for name in row)
    return sorted(name for name in names if re.fullmatch(pattern, name))


def _response(metric: str) -> str:
    match = REWARD.fullmatch(metric)
    assert match
    return match[1]


def _place(metric: str) -> tuple[int]:
    return (ORDER.index(_response(metric)) if _response(metric) in ORDER else len(ORDER),)


def _caption(runs: Sequence[Rows]) -> str:
    steps = max(len(rows) for rows in runs)
    parts = ["bold: mean over seeds; thin: seeds"] if len(runs) > 1 else []
    return "; ".join([*parts, *([f"each point averages {-(-steps // POINTS)} steps"] if steps > POINTS else [])])
