"""`mmsafe.report`: its options, and what it does with them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.options import OutputPath, Positive, RunPaths, options
from mmsafe.reporting.summary import Run
from mmsafe.runs.plan import Correction
from mmsafe.runs.run_context import RunContext

log = logging.getLogger(__name__)


@options
class ReportConfig:
    """`conf/report.yaml`, typed."""

    runs: RunPaths
    out: OutputPath | None
    against: str | None
    correction: Correction = "holm"
    margin: Positive | None = None
    samples: bool
    publish: OutputPath | None
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {"": "runs=[{}]", "--out": "out={}", "--against": "against={}"}


def report(config: ReportConfig, run: RunContext) -> None:
    """Read the runs, write table, figures and pages into a folder, and print the tables, that of means turned.

    Raises `UserError` if there are no runs, or no group called `config.against`.
    """
    from mmsafe.reporting.contrasts import contrasts
    from mmsafe.reporting.publishing import public_groups
    from mmsafe.reporting.rank_stability import HEAD, TITLE, rank_stability
    from mmsafe.reporting.report_page import RESULTS, SAMPLES, means, write_page
    from mmsafe.reporting.summary import grouped, read_runs, write_csv
    from mmsafe.reporting.table import COLUMNS, print_tables, table_of

    runs, against = read_runs(config.runs), config.against
    groups = public_groups(grouped(runs)) if config.publish else grouped(runs)
    if against and against not in groups:
        raise UserError(f"against={against}: no such group; groups are {', '.join(groups)}")
    folder = config.publish or config.out or config.runs[0] / "report"
    name = "index.html" if config.publish else "report.html"
    if config.publish:
        (folder / SAMPLES).unlink(missing_ok=True)  # of a report of before
    write_csv(folder / RESULTS, groups)
    sampled = _samples(runs if config.samples else [], folder)
    differences = [contrasts(groups, against, config.correction, config.margin)] if against else []
    page, table = write_page(groups, folder, differences, name, sampled), means(groups)
    for start in range(0, len(table.rows), COLUMNS):
        shown = table.rows[start : start + COLUMNS]
        head, *turned = zip(table.head, *([cell.text for cell in row] for row in shown), strict=True)
        print_tables([table_of(table.title, head, turned, table.note)])
    for table in differences:
        rows = ([cell.text for cell in row] for row in table.rows)
        print_tables([table_of(table.title, table.head, rows, table.note, left=2)])
    if ranks := rank_stability(groups):
        print_tables([table_of(TITLE, HEAD, ranks, left=2)])
    show_results(page, "" if sampled else f"python -m mmsafe.samples runs=[{','.join(map(as_text, config.runs))}]")


def _samples(runs: Sequence[Run], folder: Path) -> dict[Path, int]:
    """Write the page of samples; returns the number on it of each run's folder."""
    from mmsafe.evaluation.stages import JUDGEMENTS
    from mmsafe.reporting import sample_browser
    from mmsafe.reporting.report_page import SAMPLES, relative, root_of
    from mmsafe.reporting.run_samples import read_samples

    judged = [run.path for run in runs if (run.path / JUDGEMENTS).exists()]
    try:
        samples = read_samples(judged) if judged else []
    except UserError as error:
        log.warning("%s is left out: %s", SAMPLES, error)
        return {}
    if samples:
        named = [replace(it, label=relative(it.path, root_of(runs))) for it in samples]
        sample_browser.write_page(named, folder / SAMPLES)
    return {it.path: number for number, it in enumerate(samples)}
