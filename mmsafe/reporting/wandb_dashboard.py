"""The Weights & Biases dashboard as code: one list of sections, shown as a workspace and as a report."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from wandb_workspaces import workspaces
from wandb_workspaces.reports import v2 as reports

from mmsafe.reporting.table import HEADLINE

TITLE = "mmsafe"
STEP = "trainer/global_step"
"""What Lightning calls the optimiser step there."""
SAFETY = ("safety_rate", "asr", "asr_micro", "usr", "safe_rate", "image_safety_rate", "text_safety_rate")
OVER_REFUSAL = ("over_refusal_rate", "refusal_rate", "pass_rate", "neutral_accuracy", "safe_and_answered_rate")
LABELS = dict(HEADLINE)
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
SECTIONS: dict[str, tuple[Chart, ...]] = {
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
    "Safety": (
        Plane("safety against over-refusal", "eval/over_refusal_rate", "eval/safety_rate"),
        *(Bars(LABELS[f"eval/{name}"], f"eval/{name}") for name in SAFETY),
        *(Bars(label, key) for key, label in HEADLINE if "cheating" in key or "image_gap" in key or "both" in key),
    ),
    "Over-refusal": tuple(Bars(LABELS[f"eval/{name}"], f"eval/{name}") for name in OVER_REFUSAL),
    "System": (
        Lines("seconds per step", ("perf/seconds",)),
        Lines("share of time waiting for data", ("perf/data_wait",)),
        *(Lines(f"system: {name}", (f"system/{name}",)) for name in SYSTEM),
    ),
}
"""By name, in the order shown; a chart whose metrics no run has stays empty."""


def workspace(entity: str, project: str) -> workspaces.Workspace:
    """A view of the project."""
    sections = [
        workspaces.Section(name=name, panels=[_panel(chart) for chart in charts], is_open=name != "System")
        for name, charts in SECTIONS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


def report(entity: str, project: str) -> reports.Report:
    """The same charts with headings, to be shared and written into."""
    blocks: list[Any] = [reports.TableOfContents()]
    for name, charts in SECTIONS.items():
        grid = reports.PanelGrid(runsets=[reports.Runset()], panels=[_panel(chart) for chart in charts])
        blocks += [reports.H1(text=name), grid]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def as_json(entity: str, project: str) -> str:
    """What would be sent, with the same names every time; needs neither key nor network."""
    views = {"workspace": workspace(entity, project), "report": report(entity, project)}
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
