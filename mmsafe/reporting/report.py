"""`mmsafe.report`: its options, and what it does with them."""

from __future__ import annotations

from typing import ClassVar

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.options import OutputPath, Positive, RunPaths, options
from mmsafe.runs.plan import Correction
from mmsafe.runs.run_context import RunContext


@options
class ReportConfig:
    """`conf/report.yaml`, typed."""

    runs: RunPaths
    out: OutputPath | None
    against: str | None
    correction: Correction = "holm"
    margin: Positive | None = None
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {"": "runs=[{}]", "--out": "out={}", "--against": "against={}"}


def report(config: ReportConfig, run: RunContext) -> None:
    """Read the runs, write table, figures and page into a folder, and print the tables, that of means turned.

    Raises `UserError` if there are no runs, or no group called `config.against`.
    """
    from mmsafe.reporting.contrasts import contrasts
    from mmsafe.reporting.rank_stability import HEAD, TITLE, rank_stability
    from mmsafe.reporting.report_page import means, write_page
    from mmsafe.reporting.summary import grouped, read_runs, write_csv
    from mmsafe.reporting.table import COLUMNS, print_tables, table_of

    groups, against = grouped(read_runs(config.runs)), config.against
    if against and against not in groups:
        raise UserError(f"against={against}: no such group; groups are {', '.join(groups)}")
    folder = config.out or config.runs[0] / "report"
    write_csv(folder / "results.csv", groups)
    differences = [contrasts(groups, against, config.correction, config.margin)] if against else []
    page, table = write_page(groups, folder, differences), means(groups)
    for start in range(0, len(table.rows), COLUMNS):
        shown = table.rows[start : start + COLUMNS]
        head, *turned = zip(table.head, *([cell.text for cell in row] for row in shown), strict=True)
        print_tables([table_of(table.title, head, turned, table.note)])
    for table in differences:
        rows = ([cell.text for cell in row] for row in table.rows)
        print_tables([table_of(table.title, table.head, rows, table.note, left=2)])
    if ranks := rank_stability(groups):
        print_tables([table_of(TITLE, HEAD, ranks, left=2)])
    show_results(page, f"python -m mmsafe.samples runs=[{','.join(map(as_text, config.runs))}]")
