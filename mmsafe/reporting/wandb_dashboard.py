"""The Weights & Biases dashboard as code: one list of sections, shown as a workspace and as a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from wandb_workspaces import workspaces
from wandb_workspaces.reports import v2 as reports

from mmsafe.core.config import conf_dir, options_class
from mmsafe.core.declared import Declared, together

TITLE = "mmsafe"
STEP = "trainer/global_step"
"""What Lightning calls the optimiser step there."""
SYSTEM = ("cpu", "memory_percent", "gpu.0.gpu", "gpu.0.memoryAllocated", "gpu.0.powerWatts")


class Lines(NamedTuple):
    """Metrics over optimiser steps in one chart."""

    title: str
    metrics: tuple[str, ...]


class Bars(NamedTuple):
    """The last value of a metric, one bar for each run or group."""

    title: str
    metric: str


class Plane(NamedTuple):
    """Runs as points between two metrics."""

    title: str
    x: str
    y: str


Chart = Lines | Bars | Plane
TRAINING: dict[str, tuple[Chart, ...]] = {
    "Training": (
        Lines("loss", ("train/loss",)),
        Lines("loss terms", ("loss/preference", "loss/blind", "loss/nll")),
        Lines("log-probs", ("logps/chosen", "logps/rejected", "logps/blind")),
        Lines("gradient norm", ("train/grad_norm",)),
        Lines("learning rate", ("train/learning_rate",)),
    ),
    "Rewards": (
        Lines("rewards", ("rewards/chosen", "rewards/rejected", "rewards/blind")),
        Lines("margins", ("rewards/margins", "rewards/margins/blind")),
        Lines("accuracies", ("rewards/accuracies", "rewards/accuracies/blind")),
    ),
}
MACHINE = (
    Lines("seconds per step", ("perf/seconds",)),
    Lines("share of time waiting for data", ("perf/data_wait",)),
    *(Lines(f"system: {name}", (f"system/{name}",)) for name in SYSTEM),
)


def sections(declared: Sequence[Declared]) -> dict[str, tuple[Chart, ...]]:
    """By name, in the order shown; a chart whose metrics no run has stays empty."""
    axes = [(one.axis("safety"), one.axis("over-refusal")) for one in declared]
    planes = [Plane(f"{y.label} against {x.label}", x.key, y.key) for y, x in axes if y and x]
    of_axis = {
        axis: tuple(Bars(metric.label, metric.key) for metric in together(declared).metrics if metric.axis == axis)
        for axis in ("safety", "over-refusal", None)
    }
    shown: dict[str, tuple[Chart, ...]] = {
        "Safety": (*dict.fromkeys(planes), *of_axis["safety"]),
        "Over-refusal": of_axis["over-refusal"],
        "Other": of_axis[None],
    }
    return {**TRAINING, **shown, "System": MACHINE}


def shipped() -> list[Declared]:
    """What each of the benchmarks in `conf/` declares, and what any of them may be asked besides."""
    from mmsafe.evaluation.pairwise import MEASURES

    nodes = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((conf_dir() / "benchmark").glob("*"))]
    return [*(Declared(options_class(node["_target_"], "benchmark").measures) for node in nodes), Declared(MEASURES)]


def workspace(entity: str, project: str, declared: Sequence[Declared]) -> workspaces.Workspace:
    """A view of the project."""
    shown = [
        workspaces.Section(name=name, panels=[_panel(chart) for chart in charts], is_open=name != "System")
        for name, charts in sections(declared).items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=shown)


def report(entity: str, project: str, declared: Sequence[Declared]) -> reports.Report:
    """The same charts with headings, to be shared and written into."""
    blocks: list[Any] = [reports.TableOfContents()]
    for name, charts in sections(declared).items():
        grid = reports.PanelGrid(runsets=[reports.Runset()], panels=[_panel(chart) for chart in charts])
        blocks += [reports.H1(text=name), grid]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def as_json(entity: str, project: str, declared: Sequence[Declared]) -> str:
    """What would be sent, with the same names every time; needs neither key nor network."""
    views = {"workspace": workspace(entity, project, declared), "report": report(entity, project, declared)}
    plain = {
        name: json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for name, view in views.items()
    }
    return json.dumps(_named_alike(plain, {}), indent=1, sort_keys=True) + "\n"


def _panel(chart: Chart) -> Any:
    if isinstance(chart, Lines):
        x = "RelativeTime(Wall)" if chart.metrics[0].startswith("system/") else STEP
        return reports.LinePlot(title=chart.title, x=x, y=list(chart.metrics))
    if isinstance(chart, Bars):
        return reports.BarPlot(title=chart.title, metrics=[chart.metric], orientation="h")
    x, y = reports.SummaryMetric(chart.x), reports.SummaryMetric(chart.y)
    return reports.ScatterPlot(title=chart.title, x=x, y=y)


def _named_alike(node: Any, names: dict[str, str]) -> Any:
    """The random identities of panels and sections, numbered as they come."""
    if isinstance(node, list):
        return [_named_alike(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    identity = ("id", "__id__")
    return {
        key: names.setdefault(value, str(len(names)))
        if key in identity and isinstance(value, str) and value
        else _named_alike(value, names)
        for key, value in node.items()
    }
