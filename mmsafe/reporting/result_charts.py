"""What finished runs achieved, drawn: each metric by group, over β, and safety against over-refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsafe.core.declared import Metric
from mmsafe.reporting.figures import LEGEND_LINE, Chart, Curve, Line, chart, curves, ends, look, references
from mmsafe.reporting.summary import Interval, Run, declared_by, label, measured_in, over_seeds, telling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Groups = Mapping[str, Sequence[Run]]
BETA = "objective.beta"


def by_group(groups: Groups) -> list[Chart]:
    """A panel for each main metric: seeds as points, means with intervals, the paper's numbers as lines."""
    return [_by_group(groups, metric.key, metric.label) for metric in measured_in(groups)]


def over_beta(groups: Groups) -> list[Chart]:
    """A panel for each main metric that at least two β measured; groups that differ in more are curves of their own."""
    runs = [run for members in groups.values() for run in members if run.metrics]
    found = []
    for metric, title in [(metric.key, metric.label) for metric in measured_in(groups)]:
        by_curve = _curves_over_beta([run for run in runs if metric in run.metrics and BETA in run.config], metric)
        if any(len(curve.x) > 1 for curve in by_curve):
            caption = "mean over seeds with 95 % intervals; β on a logarithmic scale"
            lines = papers(runs, metric)
            name = f"beta-{_file(metric)}"
            found.append(curves(name, f"{title} over β", by_curve, x="β", caption=caption, log_x=True, lines=lines))
    return found


def pareto(groups: Groups) -> list[Chart]:
    """Safety against over-refusal, as declared; the line joins the groups that no other one beats in both."""
    safety, refusal = declared_by(groups).axis("safety"), declared_by(groups).axis("over-refusal")
    if safety is None or refusal is None:
        return []
    points = {name: (_mean(runs, refusal.key), _mean(runs, safety.key)) for name, runs in groups.items()}
    shown = {name: (x, y) for name, (x, y) in points.items() if x is not None and y is not None}
    if not shown:
        return []

    def draw(axes: Axes) -> None:
        signs = -1 if refusal.better == "higher" else 1, -1 if safety.better == "lower" else 1
        front = pareto_front([(signs[0] * x.mean, signs[1] * y.mean) for x, y in shown.values()])
        front = [(signs[0] * x, signs[1] * y) for x, y in front]
        axes.plot(*zip(*front, strict=True), color="#888888", lw=1, zorder=0, label="Pareto front")
        for number, (name, (x, y)) in enumerate(shown.items()):
            colour, _ = look(number)
            errors = [_half([x]), _half([y])]
            axes.errorbar(x.mean, y.mean, errors[1], errors[0], "o", ms=5, color=colour, elinewidth=0.8, label=name)
        references(axes.axhline, papers([run for runs in groups.values() for run in runs], safety.key))
        axes.set_xlabel(_with_direction(refusal))
        axes.set_ylabel(_with_direction(safety))

    caption = "mean over seeds with 95 % intervals; the line joins what nothing else beats in both"
    return [chart("pareto", f"{safety.label} against {refusal.label}", caption, draw)]


def _with_direction(metric: Metric) -> str:
    told = {"higher": " (more is better)", "lower": " (less is better)", None: ""}
    return f"{metric.label}{told[metric.better]}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (over-refusal, safety rate) that no other point beats in both, by over-refusal."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def papers(runs: Sequence[Run], metric: str) -> list[Line]:
    """What papers report of a metric, where the benchmarks of all runs declare the same."""
    measured = [run for run in runs if metric in run.metrics]
    declared = [{own.key: own.published for own in run.declared.metrics}.get(metric, {}) for run in measured]
    same = declared and all(published == declared[0] for published in declared)
    return [Line(name, value) for name, value in declared[0].items()] if same else []


def _by_group(groups: Groups, metric: str, title: str) -> Chart:
    def draw(axes: Axes) -> None:
        for row, runs in enumerate(groups.values()):
            values = [run.metrics[metric] for run in runs if metric in run.metrics]
            if not values:
                continue
            colour, _ = look(row)
            axes.plot(values, [row] * len(values), "o", ms=4, alpha=0.4, mew=0, color=colour)
            mean = over_seeds(values)
            axes.errorbar(mean.mean, row, xerr=_half([mean]), fmt="D", ms=5, capsize=3, color=colour)
        references(axes.axvline, papers([run for runs in groups.values() for run in runs], metric))
        axes.set_yticks(range(len(groups)), [_wrapped(name) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(title)

    height = 1.1 + LEGEND_LINE * sum(1.6 * _wrapped(name).count("\n") + 1.6 for name in groups)
    return chart(f"result-{_file(metric)}", title, "points: seeds; diamonds: means with 95 % intervals", draw, height)


def _curves_over_beta(runs: Sequence[Run], metric: str) -> list[Curve]:
    others = [name for name in telling(runs) if name != BETA]
    by_curve: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        nameless = replace(run, config={**run.config, "name": None})
        betas = by_curve.setdefault(label(nameless, others), {})
        betas.setdefault(float(run.config[BETA]), []).append(run.metrics[metric])
    found = []
    for number, (name, betas) in enumerate(by_curve.items()):
        means = [over_seeds(betas[beta]) for beta in sorted(betas)]
        low, high = ends(means)
        found.append(Curve(name, sorted(betas), [mean.mean for mean in means], number, low, high))
    return found


def _mean(runs: Sequence[Run], metric: str) -> Interval | None:
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    return over_seeds(values) if values else None


def _half(found: Sequence[Interval]) -> list[float]:
    """Half widths, 0 where there is no interval."""
    return [it.high - it.mean if it.high >= it.low else 0.0 for it in found]


def _file(metric: str) -> str:
    return metric.rpartition("/")[2]


def _wrapped(name: str, width: int = 24) -> str:
    """Options of a label on lines of their own where it is long."""
    return name if len(name) <= width else name.replace(" ", "\n")
