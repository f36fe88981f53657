"""The report as one HTML page, with its figures also as files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from markupsafe import Markup

from mmsafe.core.declared import BY_TAG as FILE
from mmsafe.core.declared import by_tag
from mmsafe.core.files import write_atomically
from mmsafe.core.run_record import JUDGE
from mmsafe.reporting import result_charts
from mmsafe.reporting.figures import INK, Chart
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.rank_stability import HEAD, TITLE, rank_stability
from mmsafe.reporting.summary import (
    Interval,
    Run,
    declared_by,
    differing,
    mean_of,
    measured_in,
    note,
    over_seeds,
    paired_difference,
)
from mmsafe.reporting.training_charts import of_training

Groups = Mapping[str, Sequence[Run]]
FIGURES, SAMPLES = "figures", "samples.html"
NOT_SHOWN = ("config_hash", "command")
"""Of `run.json`: the overrides say it better."""
OVER_SEEDS = "mean over seeds ± half of the 95 % interval (Student t)"


class Cell(NamedTuple):
    """What stands in a table, and what it is sorted by, if not by that."""

    text: str
    key: float | str | None = None


MISSING = Cell("–", -math.inf)


class Table(NamedTuple):
    """A sortable table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def write_page(groups: Groups, folder: Path, against: str | None = None) -> Path:
    """Write `report.html` and `figures/` into `folder`; returns the page's path."""
    runs = [run for members in groups.values() for run in members]
    root = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    sections = {
        "Results": result_charts.by_group(groups),
        "What safety costs": result_charts.pareto(groups),
        "β": result_charts.over_beta(groups),
        "Training": of_training(groups),
    }
    for name, chart in ((name, chart) for name, charts in sections.items() for chart in charts):
        chart.figure.supxlabel("" if name == "Training" else shorten(note(groups), 100), fontsize=6, color=INK)
        chart.write(folder / FIGURES)
    ranks = [[Cell(text) for text in row] for row in rank_stability(groups)]
    text = rendered(
        "report",
        title=", ".join(groups),
        counts=f"{len(runs)} runs in {len(groups)} groups, {sum(run.status == 'finished' for run in runs)} finished",
        tables=[
            *compared(groups, against),
            *([Table(TITLE, HEAD, ranks)] if ranks else []),
            *_by_tag(groups),
            _runs(groups, root),
        ],
        figures=FIGURES,
        sections={name: _inline(charts) for name, charts in sections.items() if charts},
        options=_options(groups),
        provenance=_provenance(runs, root),
        samples=next(
            (_relative(place / SAMPLES, folder) for place in (folder, root) if (place / SAMPLES).exists()), None
        ),
    )
    write_atomically(folder / "report.html", text)
    return folder / "report.html"


def compared(groups: Groups, against: str | None) -> list[Table]:
    """The means of all groups; and how the others differ from the group called `against`, if there is one."""
    measured = measured_in(groups)
    labels = [metric.label for metric in measured]
    rows = [
        [Cell(name), _finished(runs), _judges(runs), *(_interval(mean_of(runs, metric.key)) for metric in measured)]
        for name, runs in groups.items()
    ]
    tables = [Table("Groups", ["group", "runs", "judge", *labels], rows, note(groups, OVER_SEEDS))]
    if against:
        rows = [
            [Cell(name), *(_difference(paired_difference(runs, groups[against], metric.key)) for metric in measured)]
            for name, runs in groups.items()
            if name != against
        ]
        tests = "paired by seed, ± half of the 95 % interval; p of paired t-tests, not corrected for their number"
        tables.append(Table(f"Difference from {against}", ["group", *labels], rows, note(groups, tests)))
    return tables


def _by_tag(groups: Groups) -> list[Table]:
    """The main metrics by category and other tags, where any run measured them so."""
    measured = [[by_tag(run.metrics) for run in runs] for runs in groups.values()]
    labels = {metric.name: metric.label for metric in declared_by(groups).metrics}
    every = {key: row for runs in measured for by_key in runs for key, row in by_key.items() if row.metric in labels}
    rows = []
    for key, (tag, value, metric, *_) in sorted(every.items(), key=lambda item: item[1][:3]):
        same = [[by_key[key] for by_key in runs if key in by_key] for runs in measured]
        prompts = sorted({int(row.n) for runs in same for row in runs})
        counts = Cell("–".join(map(str, dict.fromkeys((prompts[0], prompts[-1])))), prompts[0])
        means = [_interval(over_seeds([row.estimate for row in runs]) if runs else None) for runs in same]
        rows.append([Cell(f"{tag}={value}"), Cell(labels[metric]), counts, *means])
    told = note(groups, OVER_SEEDS, f"n: prompts of a run, whose own interval is in {FILE}")
    return [Table("By category", ["tag", "metric", "n", *groups], rows, told)] if rows else []


def _runs(groups: Groups, root: Path) -> Table:
    measured = measured_in(groups)
    rows = []
    for name, run in ((name, run) for name, runs in groups.items() for run in runs):
        status = run.status + (f": {run.message}" if run.status == "failed" else "")
        values = [run.metrics.get(metric.key) for metric in measured]
        cells = [MISSING if value is None else Cell(f"{value:.3f}", value) for value in values]
        about = [Cell(_relative(run.path, root)), Cell(name), Cell(str(run.seed), run.seed), Cell(status)]
        rows.append([*about, *cells, _judges([run]), Cell(" ".join(run.overrides))])
    head = ["run", "group", "seed", "status", *(metric.label for metric in measured), "judge", "overrides"]
    return Table("Runs", head, rows, "all metrics are in results.csv")


def _judges(runs: Sequence[Run]) -> Cell:
    return Cell(", ".join(sorted({str(run.metrics[JUDGE]) for run in runs if JUDGE in run.metrics})) or "–")


def _finished(runs: Sequence[Run]) -> Cell:
    finished = sum(run.status == "finished" for run in runs)
    more = len(runs) - finished
    return Cell(f"{finished}, {more} unfinished" if more else str(finished), finished)


def _interval(interval: Interval | None) -> Cell:
    return Cell(str(interval), interval.mean) if interval else MISSING


def _difference(interval: Interval | None) -> Cell:
    if interval is None or math.isnan(interval.p):
        return _interval(interval)
    return Cell(f"{interval} (p = {interval.p:.2g})", interval.mean)


def _options(groups: Groups) -> dict[str, list[str]]:
    """Options in which groups differ, with the values of each; `seed` where a group has several."""
    configs = [[run.config for run in runs] for runs in groups.values()]
    return {
        option: [
            ", ".join(dict.fromkeys(_text(one[option]) for one in group if option in one)) or "–" for group in configs
        ]
        for option in [*differing([config for group in configs for config in group]), "seed"]
    }


def _provenance(runs: Sequence[Run], root: Path) -> dict[str, dict[str, str]]:
    """What `run.json` says of all runs, then of each what is not the same for all."""
    records = {
        _relative(run.path, root): {
            name: _text(value)
            for name, value in run.about.items()
            if name not in NOT_SHOWN and not name.startswith("parameters.")
        }
        for run in runs
    }
    names = dict.fromkeys(name for record in records.values() for name in record)
    shared = {name for name in names if len({record.get(name) for record in records.values()}) == 1}
    first = next(iter(records.values()))
    own = {run: {name: text for name, text in record.items() if name not in shared} for run, record in records.items()}
    return {"all runs": {name: first[name] for name in names if name in shared}} | (own if shared != set(names) else {})


def _inline(charts: Sequence[Chart]) -> list[tuple[Chart, Markup]]:
    return [(chart, Markup(chart.inline())) for chart in charts]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
