"""The Weights & Biases dashboard as code: one list of sections, shown as a workspace and as a report."""

import json
from collections.abc import Sequence
from typing import Any

import yaml
from wandb_workspaces import workspaces
from wandb_workspaces.reports import v2 as reports

from mmsafe.core.config import conf_dir, options_class
from mmsafe.core.declared import Declared, together

TITLE = "mmsafe"
STEP = "trainer/global_step"
"""What Lightning calls the optimiser step there."""
SYSTEM = ("cpu", "memory_percent", "gpu.0.gpu", "gpu.0.memoryAllocated", "gpu.0.powerWatts")


def sections(declared: Sequence[Declared]) -> dict[str, list[Any]]:
    """Panels by section, in the order shown; a chart whose metrics no run has stays empty."""
    metrics, judges = together(declared).metrics, ", ".join(together(declared).judges)
    axes = [(one.axis("safety"), one.axis("over-refusal")) for one in declared]
    planes = dict.fromkeys((f"{y.label} against {x.label}", x.key, y.key) for y, x in axes if y and x)
    bars: dict[str | None, list[Any]] = {
        axis: [
            reports.BarPlot(
                title=metric.label + f" · judge: {judges}" * bool(judges and metric.judged),
                metrics=[metric.key],
                orientation="h",
            )
            for metric in metrics
            if metric.axis == axis
        ]
        for axis in ("safety", "over-refusal", "utility", None)
    }
    return {
        "Training": [
            _lines("loss", "train/loss", "val/loss"),
            _lines("loss terms", "loss/preference", "loss/blind", "loss/nll"),
            _lines("log-probs", "logps/chosen", "logps/rejected", "logps/blind"),
            _lines("gradient norm", "train/grad_norm"),
            _lines("learning rate", "train/learning_rate"),
        ],
        "Rewards": [
            _lines("rewards", "rewards/chosen", "rewards/rejected", "rewards/blind"),
            _lines("margins", "rewards/margins", "rewards/margins/blind"),
            _lines("accuracies", "rewards/accuracies", "rewards/accuracies/blind"),
        ],
        "Safety": [
            *(
                reports.ScatterPlot(title=title, x=reports.SummaryMetric(x), y=reports.SummaryMetric(y))
                for title, x, y in planes
            ),
            *bars["safety"],
        ],
        "Over-refusal": bars["over-refusal"],
        "Utility": bars["utility"],
        "Other": bars[None],
        "System": [
            _lines("seconds per step", "perf/seconds"),
            _lines("share of time waiting for data", "perf/data_wait"),
            *(_lines(f"system: {name}", f"system/{name}", x="RelativeTime(Wall)") for name in SYSTEM),
        ],
    }


def _lines(title: str, *metrics: str, x: str = STEP) -> Any:
    return reports.LinePlot(title=title, x=x, y=list(metrics))


def shipped() -> list[Declared]:
    """What each of the benchmarks in `conf/` declares, and what any of them may be asked besides."""
    from mmsafe.evaluation.pairwise import MEASURES

    nodes = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((conf_dir() / "benchmark").glob("*"))]
    return [*(Declared(options_class(node["_target_"], "benchmark").measures) for node in nodes), Declared(MEASURES)]


def workspace(entity: str, project: str, declared: Sequence[Declared]) -> workspaces.Workspace:
    """A view of the project."""
    shown = [
        workspaces.Section(name=name, panels=panels, is_open=name != "System")
        for name, panels in sections(declared).items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=shown)


def report(entity: str, project: str, declared: Sequence[Declared]) -> reports.Report:
    """The same charts with headings, to be shared and written into."""
    blocks: list[Any] = [reports.TableOfContents()]
    for name, panels in sections(declared).items():
        blocks += [reports.H1(text=name), reports.PanelGrid(runsets=[reports.Runset()], panels=panels)]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def as_json(entity: str, project: str, declared: Sequence[Declared]) -> str:
    """What would be sent, with the same names every time; needs neither key nor network."""
    views = {"workspace": workspace(entity, project, declared), "report": report(entity, project, declared)}
    plain = {
        name: view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True) for name, view in views.items()
    }
    return json.dumps(_named_alike(plain, {}), indent=1, sort_keys=True) + "\n"


def _named_alike(node: Any, names: dict[str, str]) -> Any:
    """The random identities of panels and sections, numbered as they come."""
    if isinstance(node, list):
        return [_named_alike(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: names.setdefault(value, str(len(names)))
        if key in ("id", "__id__") and isinstance(value, str) and value
        else _named_alike(value, names)
        for key, value in node.items()
    }
