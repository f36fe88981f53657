"""What finished runs achieved, drawn: each metric by group, over β, and safety against over-refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes

from mmsafe.core.declared import Metric
from mmsafe.reporting.figures import LEGEND_LINE, Chart, Curve, Line, chart, curves, look, references
from mmsafe.reporting.summary import Run, declared_by, label, mean_of, measured_in, note, telling

Groups = Mapping[str, Sequence[Run]]
BETA = "objective.beta"
INTERVALS = "95 % intervals over seeds, or over the prompts of a single run"
DIRECTION = {"higher": " (more is better)", "lower": " (less is better)", None: ""}


def by_group(groups: Groups) -> list[Chart]:
    """A panel for each main metric: seeds as points, means with intervals, the paper's numbers as lines."""
    return [_noted(_by_group(groups, metric), groups, metric) for metric in measured_in(groups)]


def over_beta(groups: Groups) -> list[Chart]:
    """A panel for each main metric that at least two β measured; groups that differ in more are curves of their own."""
    runs = [run for run in _all(groups) if BETA in run.config]
    charts = []
    for metric in measured_in(groups):
        by_curve = _curves_over_beta([run for run in runs if metric.key in run.metrics], metric.key)
        if any(len(curve.x) > 1 for curve in by_curve):
            name, title = f"beta-{_file(metric)}", f"{metric.label} over β"
            caption = f"β on a logarithmic scale; {INTERVALS}"
            lines = papers(_all(groups), metric.key)
            drawn = curves(name, title, by_curve, x="β", caption=caption, log_x=True, lines=lines)
            charts.append(_noted(drawn, groups, metric))
    return charts


def pareto(groups: Groups) -> list[Chart]:
    """Safety against over-refusal and against utility, as declared."""
    declared = declared_by(groups)
    safety, costs = declared.axis("safety"), (declared.axis("over-refusal"), declared.axis("utility"))
    return [drawn for cost in costs if cost and safety for drawn in _plane(groups, cost, safety)]


def _plane(groups: Groups, cost: Metric, safety: Metric) -> list[Chart]:
    points = {name: (mean_of(runs, cost.key), mean_of(runs, safety.key)) for name, runs in groups.items()}
    shown = {name: (x, y) for name, (x, y) in points.items() if x is not None and y is not None}
    if not shown:
        return []

    def draw(axes: Axes) -> None:
        signs = -1 if cost.better == "higher" else 1, -1 if safety.better == "lower" else 1
        front = pareto_front([(signs[0] * x.mean, signs[1] * y.mean) for x, y in shown.values()])
        front = [(signs[0] * x, signs[1] * y) for x, y in front]
        axes.plot(*zip(*front, strict=True), color="#888888", lw=1, zorder=0, label="Pareto front")
        for number, (name, (x, y)) in enumerate(shown.items()):
            style: dict[str, Any] = {"ms": 5, "color": look(number)[0], "elinewidth": 0.8, "label": name}
            axes.errorbar(x.mean, y.mean, y.arms, x.arms, "D" if (x.mean, y.mean) in front else "o", **style)
        references(axes.axhline, papers(_all(groups), safety.key))
        axes.set_xlabel(f"{cost.label}{DIRECTION[cost.better]}")
        axes.set_ylabel(f"{safety.label}{DIRECTION[safety.better]}")

    caption = f"diamonds, joined by the line: what nothing else beats in both; {INTERVALS}"
    drawn = chart(f"pareto-{_file(cost)}", f"{safety.label} against {cost.label}", caption, draw)
    return [_noted(drawn, groups, cost, safety)]


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
    declared = [{each.key: each.published for each in run.declared.metrics}.get(metric, {}) for run in measured]
    same = declared and all(published == declared[0] for published in declared)
    return [Line(name, value) for name, value in declared[0].items()] if same else []


def _by_group(groups: Groups, metric: Metric) -> Chart:
    def draw(axes: Axes) -> None:
        for row, runs in enumerate(groups.values()):
            if mean := mean_of(runs, metric.key):
                values, colour = [run.metrics[metric.key] for run in runs if metric.key in run.metrics], look(row)[0]
                axes.plot(values, [row] * len(values), "o", ms=4, alpha=0.4, mew=0, color=colour)
                axes.errorbar(mean.mean, row, xerr=mean.arms, fmt="D", ms=5, capsize=3, color=colour)
        references(axes.axvline, papers(_all(groups), metric.key))
        axes.set_yticks(range(len(groups)), labels)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(metric.label)

    labels = [name if len(name) <= 24 else name.replace(" ", "\n") for name in groups]
    height = 1.1 + LEGEND_LINE * sum(1.6 * text.count("\n") + 1.6 for text in labels)
    caption = f"points: seeds; diamonds: means; {INTERVALS}"
    return chart(f"result-{_file(metric)}", metric.label, caption, draw, height)


def _curves_over_beta(runs: Sequence[Run], metric: str) -> list[Curve]:
    others = [name for name in telling(runs) if name != BETA]
    by_curve: dict[str, dict[float, list[Run]]] = {}
    for run in runs:
        nameless = replace(run, config={**run.config, "name": None})
        by_curve.setdefault(label(nameless, others), {}).setdefault(float(run.config[BETA]), []).append(run)
    drawn = []
    for number, (name, by_beta) in enumerate(by_curve.items()):
        means = [mean for beta in sorted(by_beta) if (mean := mean_of(by_beta[beta], metric))]
        values, arms = [mean.mean for mean in means], [mean.arms for mean in means]
        drawn.append(Curve(name, sorted(by_beta), values, number, arms))
    return drawn


def _noted(drawn: Chart, groups: Groups, *shown: Metric) -> Chart:
    """With who judged, if any of the metrics shown is made of verdicts."""
    return replace(drawn, note=note(groups, shown=shown))


def _all(groups: Groups) -> list[Run]:
    return [run for runs in groups.values() for run in runs]


def _file(metric: Metric) -> str:
    return metric.key.rpartition("/")[2]
