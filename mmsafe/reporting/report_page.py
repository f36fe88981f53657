"""The report as one HTML page, with its figures also as files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from mmsafe.core.declared import BY_TAG as FILE
from mmsafe.core.declared import by_tag
from mmsafe.core.files import write_atomically
from mmsafe.reporting.figures import Chart
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.result_charts import by_group, over_beta, pareto
from mmsafe.reporting.summary import (
    Interval,
    Run,
    declared_by,
    differing,
    measured_in,
    over_seeds,
    paired_difference,
)
from mmsafe.reporting.training_charts import of_training

PAGE, FIGURES, SAMPLES = "report.html", "figures", "samples.html"
NOT_TOLD = ("config_hash", "command")
"""Of `run.json`: the overrides say it better."""


class Cell(NamedTuple):
    """What stands in a table, and what it is sorted by."""

    text: str
    key: float | str = ""


class Table(NamedTuple):
    """A sortable table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def write_page(groups: Mapping[str, Sequence[Run]], folder: Path, against: str | None = None) -> Path:
    """Write `report.html` and `figures/` into `folder`; returns the page's path."""
    sections = {
        "Results": by_group(groups),
        "Safety against over-refusal": pareto(groups),
        "β": over_beta(groups),
        "Training": of_training(groups),
    }
    for charts in sections.values():
        for chart in charts:
            chart.write(folder / FIGURES)
    path = folder / PAGE
    write_atomically(path, page(groups, sections, folder, against))
    return path


def page(
    groups: Mapping[str, Sequence[Run]], sections: Mapping[str, Sequence[Chart]], folder: Path, against: str | None
) -> str:
    """The page, to be put into `folder`."""
    runs = [run for members in groups.values() for run in members]
    root = _root(runs)
    tables = [_means(groups), *([_differences(groups, against)] if against else []), *_by_tag(groups)]
    tables.append(_runs(groups, root))
    return rendered(
        "report",
        title=", ".join(groups),
        counts=f"{len(runs)} runs in {len(groups)} groups, {sum(run.status == 'finished' for run in runs)} finished",
        judges=declared_by(groups).judged_by(run.metrics for run in runs) or "",
        tables=tables,
        figures=FIGURES,
        sections={
            name: [(chart, Markup(chart.inline())) for chart in charts] for name, charts in sections.items() if charts
        },
        options=_options(groups),
        provenance=_provenance(runs, root),
        samples=_samples((folder, root), folder),
    )


def _means(groups: Mapping[str, Sequence[Run]]) -> Table:
    measured = _measured(groups)
    rows = []
    for name, runs in groups.items():
        values = [[run.metrics[key] for run in runs if key in run.metrics] for key, _ in measured]
        finished = sum(run.status == "finished" for run in runs)
        cells = [_interval(over_seeds(found) if found else None) for found in values]
        rows.append([Cell(name, name), Cell(str(finished), finished), *cells])
    note = "mean over seeds ± half of the 95 % interval (Student t)"
    return Table("Groups", ["group", "runs", *(label for _, label in measured)], rows, note)


def _differences(groups: Mapping[str, Sequence[Run]], against: str) -> Table:
    measured = _measured(groups)
    rows = []
    for name, runs in groups.items():
        if name != against:
            found = [paired_difference(runs, groups[against], key) for key, _ in measured]
            rows.append([Cell(name, name), *(_interval(interval) for interval in found)])
    note = "paired by seed, ± half of the 95 % interval; p of a two-sided paired t-test, not corrected for their number"
    return Table(f"Difference from {against}", ["group", *(label for _, label in measured)], rows, note)


def _by_tag(groups: Mapping[str, Sequence[Run]]) -> list[Table]:
    """The main metrics by category and other tags, where any run measured them so."""
    found = [[by_tag(run.metrics) for run in runs] for runs in groups.values()]
    labels = {metric.name: metric.label for metric in declared_by(groups).metrics}
    told = {key: row for runs in found for measured in runs for key, row in measured.items()}
    rows = []
    for key, (tag, value, metric, *_) in sorted(told.items(), key=lambda item: item[1][:3]):
        if (label := labels.get(metric)) is None:
            continue
        same = [[measured[key] for measured in runs if key in measured] for runs in found]
        prompts = sorted({int(row.n) for runs in same for row in runs})
        counts = Cell("–".join(map(str, dict.fromkeys((prompts[0], prompts[-1])))), prompts[0])
        means = [_interval(over_seeds([row.estimate for row in runs]) if runs else None) for runs in same]
        rows.append([Cell(f"{tag}={value}", f"{tag}={value}"), Cell(label, label), counts, *means])
    note = (
        f"mean over seeds ± half of the 95 % interval (Student t); n: prompts of a run, whose own interval is in {FILE}"
    )
    return [Table("By category", ["tag", "metric", "n", *groups], rows, note)] if rows else []


def _runs(groups: Mapping[str, Sequence[Run]], root: Path) -> Table:
    measured = _measured(groups)
    rows = []
    for name, runs in groups.items():
        for run in runs:
            place = _place(run, root)
            status = run.status + (f": {run.message}" if run.status == "failed" else "")
            own = [Cell(place, place), Cell(name, name), Cell(str(run.seed), _key(run.seed)), Cell(status, status)]
            values = [run.metrics.get(key) for key, _ in measured]
            cells = [Cell("–", -math.inf) if value is None else Cell(f"{value:.3f}", value) for value in values]
            overrides = " ".join(run.overrides)
            rows.append([*own, *cells, Cell(overrides, overrides)])
    head = ["run", "group", "seed", "status", *(label for _, label in measured), "overrides"]
    return Table("Runs", head, rows, "all metrics are in results.csv")


def _measured(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    return [(metric.key, metric.label) for metric in measured_in(groups)]


def _interval(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–", -math.inf)
    told = "" if math.isnan(interval.p) else f" (p = {interval.p:.2g})"
    return Cell(f"{interval}{told}", interval.mean)


def _options(groups: Mapping[str, Sequence[Run]]) -> dict[str, list[str]]:
    """Options in which groups differ, with the values of each; `seed` where a group has several."""
    configs = {name: [run.config for run in runs] for name, runs in groups.items()}
    names = [*differing([config for found in configs.values() for config in found]), "seed"]
    return {option: [_values(found, option) for found in configs.values()] for option in names}


def _values(facts: Sequence[Mapping[str, Any]], name: str) -> str:
    shown = dict.fromkeys(_text(these[name]) for these in facts if name in these)
    return ", ".join(shown) or "–"


def _provenance(runs: Sequence[Run], root: Path) -> dict[str, dict[str, str]]:
    """What `run.json` says of all runs, then of each what is not the same for all."""
    facts = {
        _place(run, root): {
            name: value
            for name, value in run.about.items()
            if name not in NOT_TOLD and not name.startswith("parameters.")
        }
        for run in runs
    }
    names = list(dict.fromkeys(name for these in facts.values() for name in these))
    distinct = {name for name in names if len({_text(these.get(name)) for these in facts.values()}) > 1}
    shared = {name: _text(next(iter(facts.values()))[name]) for name in names if name not in distinct}
    own = {
        place: {name: _text(these[name]) for name in these if name in distinct}
        for place, these in facts.items()
        if distinct
    }
    return {"all runs": shared, **own}


def _samples(places: Sequence[Path], folder: Path) -> str | None:
    """Where the page of samples is, seen from `folder`; None if it has not been written."""
    for place in places:
        if (place / SAMPLES).exists():
            return Path(os.path.relpath(place / SAMPLES, folder)).as_posix()
    return None


def _root(runs: Sequence[Run]) -> Path:
    """The folder that holds all runs."""
    return Path(os.path.commonpath([run.path.resolve().parent for run in runs]))


def _place(run: Run, root: Path) -> str:
    return run.path.resolve().relative_to(root).as_posix()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _key(value: Any) -> float | str:
    return value if isinstance(value, int | float) else str(value)
