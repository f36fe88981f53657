"""How runs were trained, drawn from their `metrics.csv`: loss terms, rewards, margins, accuracies."""

import re
from collections.abc import Mapping, Sequence

from mmsafe.core.files import STEP, read_metrics
from mmsafe.reporting.figures import Chart, Curve, curves
from mmsafe.reporting.summary import Run

Rows = Sequence[Mapping[str, float]]
POINTS = 300
"""Of a curve at most; where there are more steps, a point is the mean of neighbours."""
SHOWN = (
    r"train/loss(/.*)?|loss/.*",
    r"val/loss",
    r"rewards/margins(/.*)?",
    r"rewards/accuracies(/.*)?",
    r"train/grad_norm",
)
REWARD = r"rewards/(?!margins|accuracies)(.*)"
ORDER = ("chosen", "rejected", "blind")


def of_training(groups: Mapping[str, Sequence[Run]]) -> list[Chart]:
    """A panel for each group with its rewards, and one for each other metric with a curve for each group."""
    trained = {}
    for group, runs in groups.items():
        seeds = [read_metrics(run.path / "metrics.csv") for run in runs]
        if seeds := [rows for rows in seeds if _names([rows], r"(train|loss|rewards)/.*")]:
            trained[group] = seeds
    charts = []
    for number, (group, seeds) in enumerate(trained.items()):
        named = sorted(name.removeprefix("rewards/") for name in _names(seeds, REWARD))
        rewards = [*(name for name in ORDER if name in named), *(name for name in named if name not in ORDER)]
        drawn = [c for style, name in enumerate(rewards) for c in _seeds(seeds, f"rewards/{name}", name, style)]
        if drawn:
            charts.append(curves(f"rewards-{number}", f"rewards: {group}", drawn, x=STEP, caption=_caption(seeds)))
    every = [rows for seeds in trained.values() for rows in seeds]
    styles = {group: number for number, group in enumerate(groups)}  # as in the figures of results
    for metric in (name for pattern in SHOWN for name in _names(every, pattern)):
        drawn = [c for group, seeds in trained.items() for c in _seeds(seeds, metric, group, styles[group])]
        name = f"training-{metric.replace('/', '-')}"
        charts.append(curves(name, metric, drawn, x=STEP, caption=_caption(every)))
    return charts


def thinned(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most so many points, each the mean of as many neighbours as the others (the last of what is left)."""
    size = -(-len(x) // points)
    parts = [slice(start, start + size) for start in range(0, len(x), max(1, size))]
    return [sum(x[part]) / len(x[part]) for part in parts], [sum(y[part]) / len(y[part]) for part in parts]


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


def _names(runs: Sequence[Rows], pattern: str) -> list[str]:
    return sorted({name for rows in runs for row in rows for name in row if re.fullmatch(pattern, name)})


def _caption(runs: Sequence[Rows]) -> str:
    steps = max(len(rows) for rows in runs)
    parts = ["bold: mean over seeds; thin: seeds"] if len(runs) > 1 else []
    return "; ".join([*parts, *([f"each point averages {-(-steps // POINTS)} steps"] if steps > POINTS else [])])
