"""The report as one HTML page, with its figures also as files."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from mmsafe.core.declared import BY_TAG as FILE
from mmsafe.core.declared import by_tag
from mmsafe.core.files import write_atomically
from mmsafe.core.run_record import JUDGE
from mmsafe.reporting import result_charts
from mmsafe.reporting.evidence import as_text, evidence
from mmsafe.reporting.figures import INK
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.rank_stability import HEAD, TITLE, rank_stability
from mmsafe.reporting.summary import Run, declared_by, differing, mean_of, measured_in, note
from mmsafe.reporting.training_charts import of_training

Groups = Mapping[str, Sequence[Run]]
NONE: Mapping[Path, int] = {}
FIGURES, RESULTS, SAMPLES = "figures", "results.csv", "samples.html"
OVER_SEEDS = "mean over seeds ± half of the 95 % interval (Student t); of one run, [its own 95 % interval over prompts]"


class Cell(NamedTuple):
    """What stands in a table, and what it is sorted by, if not by that."""

    text: str
    key: float | str | None = None
    metric: str = ""
    runs: Sequence[Run] = ()
    """Of which metric and runs it tells, for those who press it."""


MISSING = Cell("–", -math.inf)


class Table(NamedTuple):
    """A sortable table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False


def write_page(
    groups: Groups,
    folder: Path,
    differences: Sequence[Table] = (),
    name: str = "report.html",
    sampled: Mapping[Path, int] = NONE,
) -> Path:
    """Write the page and `figures/` into `folder`; returns the page's path.

    `sampled` has the number of each run's folder on the page of samples, if there is one beside this page.
    """
    runs = [run for members in groups.values() for run in members]
    root = root_of(runs)
    sections = {
        "Results": result_charts.by_group(groups),
        "What safety costs": result_charts.pareto(groups),
        "β": result_charts.over_beta(groups),
        "Training": of_training(groups),
    }
    for chart in (chart for charts in sections.values() for chart in charts):
        chart.figure.supxlabel(shorten(chart.note, 100), fontsize=6, color=INK)
        chart.write(folder / FIGURES)
    ranks = [[Cell(text) for text in row] for row in rank_stability(groups)]
    shown = declared_by(groups).metrics
    text = rendered(
        "report",
        scripts=("report", "evidence"),
        title=", ".join(groups),
        counts=f"{len(runs)} runs in {len(groups)} groups, {sum(run.status == 'finished' for run in runs)} finished",
        tables=[
            means(groups),
            *differences,
            *([Table(TITLE, HEAD, ranks)] if ranks else []),
            *_by_tag(groups),
            _runs(groups, root),
            _options(groups),
        ],
        figures=FIGURES,
        sections={section: charts for section, charts in sections.items() if charts},
        evidence=[evidence(run, relative(run.path, root), shown, sampled.get(run.path)) for run in runs],
        positions={run.path: number for number, run in enumerate(runs)},
        links=[SAMPLES, RESULTS] if sampled else [RESULTS],
    )
    write_atomically(folder / name, text)
    return folder / name


def root_of(runs: Sequence[Run]) -> Path:
    """The folder that holds the folders of all runs; a run is called by the way from there."""
    return Path(os.path.commonpath([run.path.resolve().parent for run in runs]))


def means(groups: Groups) -> Table:
    """The means of all groups."""
    measured = measured_in(groups)
    rows = [
        [Cell(name), _finished(runs), _judges(runs), *(_mean(runs, metric.key) for metric in measured)]
        for name, runs in groups.items()
    ]
    labels = [metric.label for metric in measured]
    return Table("Groups", ["group", "runs", "judge", *labels], rows, note(groups, OVER_SEEDS))


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
        means = [_mean(runs, key) for runs in groups.values()]
        rows.append([Cell(f"{tag}={value}"), Cell(labels[metric]), counts, *means])
    caption = note(groups, OVER_SEEDS, f"n: prompts of a run, whose own interval is in {FILE}")
    return [Table("By category", ["tag", "metric", "n", *groups], rows, caption, folded=True)] if rows else []


def _runs(groups: Groups, root: Path) -> Table:
    measured = measured_in(groups)
    rows = []
    for name, run in ((name, run) for name, runs in groups.items() for run in runs):
        status = run.status + (f": {run.message}" if run.status == "failed" else "")
        cells = [_mean([run], metric.key) for metric in measured]
        about = [Cell(relative(run.path, root)), Cell(name), Cell(str(run.seed), run.seed), Cell(status)]
        rows.append([*about, *cells, _judges([run]), Cell(run.plan[0] or "–"), Cell(" ".join(run.overrides))])
    head = ["run", "group", "seed", "status", *(metric.label for metric in measured), "judge", "plan", "overrides"]
    return Table("Runs", head, rows, "own 95 % intervals over prompts; all metrics are in results.csv", folded=True)


def _judges(runs: Sequence[Run]) -> Cell:
    judged = [run.metrics[JUDGE] for run in runs if run.declared.judged_by([run.metrics])]
    return Cell(", ".join(sorted(set(map(str, judged)))) or "–")


def _finished(runs: Sequence[Run]) -> Cell:
    finished = sum(run.status == "finished" for run in runs)
    more = len(runs) - finished
    return Cell(f"{finished}, {more} unfinished" if more else str(finished), finished)


def _mean(runs: Sequence[Run], metric: str) -> Cell:
    interval = mean_of(runs, metric)
    return Cell(str(interval), interval.mean, metric, runs) if interval else MISSING


def _options(groups: Groups) -> Table:
    """Options in which groups differ, with the values of each; `seed` where a group has several."""
    configs = [[run.config for run in runs] for runs in groups.values()]
    rows = [
        [
            Cell(option),
            *(
                Cell(", ".join(dict.fromkeys(as_text(one[option]) for one in group if option in one)) or "–")
                for group in configs
            ),
        ]
        for option in [*differing([config for group in configs for config in group]), "seed"]
    ]
    return Table("Options in which the runs differ", ["option", *groups], rows, folded=True)


def relative(path: Path, folder: Path) -> str:
    """The way from `folder` to `path`, as a link has it."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
