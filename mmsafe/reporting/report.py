"""What `mmsafe.report` does once its config has been checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.reporting.report_config import ReportConfig
from mmsafe.reporting.report_page import write_page
from mmsafe.reporting.summary import (
    Run,
    declared_by,
    grouped,
    measured_in,
    over_seeds,
    paired_difference,
    read_runs,
    write_csv,
)
from mmsafe.reporting.table import print_tables

COLUMNS = 5
"""Groups beside each other in a printed table; more follow below."""


def report(config: ReportConfig) -> None:
    """Read the runs, write table, figures and page into a folder, and print the table.

    Raises `UserError` if there are no runs, or no group called `config.against`.
    """
    groups, against = grouped(read_runs(config.runs)), config.against
    if against and against not in groups:
        raise UserError(f"against={against}: no such group; groups are {', '.join(groups)}")
    tables = [means(part) for part in in_parts(groups)]
    if against:
        others = {label: runs for label, runs in groups.items() if label != against}
        tables += [differences(part, groups[against], against) for part in in_parts(others)]
    folder = config.out or config.runs[0] / "report"
    write_csv(folder / "results.csv", groups)
    page = write_page(groups, folder, against)
    print_tables(tables)
    show_results(page, f"python -m mmsafe.samples runs=[{','.join(map(as_text, config.runs))}]")


def in_parts(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Sequence[Run]]]:
    """`groups` in parts that are readable side by side; one part, which may be empty, if they are few."""
    pairs = list(groups.items())
    return [dict(pairs[start : start + COLUMNS]) for start in range(0, max(1, len(pairs)), COLUMNS)]


def means(groups: Mapping[str, Sequence[Run]]) -> Table:
    """Mean and 95 % interval over seeds, one column per group."""
    table = Table(title="mean over seeds ± half of the 95 % interval (Student t)")
    table.caption = declared_by(groups).judged_by(run.metrics for runs in groups.values() for run in runs)
    table.add_column("metric")
    for label, runs in groups.items():
        unfinished = sum(not run.metrics for run in runs)
        note = f", {unfinished} unfinished" if unfinished else ""
        table.add_column(f"{label} (n={len(runs) - unfinished}{note})", justify="right", overflow="fold")
    for metric in measured_in(groups):
        values = [[run.metrics[metric.key] for run in runs if metric.key in run.metrics] for runs in groups.values()]
        table.add_row(metric.label, *(str(over_seeds(found)) if found else "–" for found in values))
    return table


def differences(groups: Mapping[str, Sequence[Run]], base: Sequence[Run], against: str) -> Table:
    """Each group minus `base`, the group called `against`, paired by seed."""
    table = Table(title=f"difference from {against}, paired by seed, ± half of the 95 % interval")
    table.add_column("metric")
    for label in groups:
        table.add_column(label, justify="right", overflow="fold")
    for metric in measured_in(groups):
        found = [paired_difference(runs, base, metric.key) for runs in groups.values()]
        if any(found):
            table.add_row(metric.label, *(str(interval) if interval else "–" for interval in found))
    return table
