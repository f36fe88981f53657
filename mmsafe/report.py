"""`python -m mmsafe.report DIR…`: runs or sweeps in one table, one `results.csv`, one HTML page with figures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from mmsafe.core.endings import told
from mmsafe.core.errors import UserError
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


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("mmsafe.report", description="Compare runs, grouped over seeds.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, sweep folders, or any folder above them")
    parser.add_argument("--out", type=Path, help="folder to write (default: report in the first folder)")
    parser.add_argument("--against", help="group that the others are compared with, seed by seed")
    with told("mmsafe.report"):
        args = parser.parse_args()
        groups = grouped(read_runs(args.folders))
        if args.against and args.against not in groups:
            raise UserError(f"--against {args.against}: no such group; groups are {', '.join(groups)}")
        tables = [means(part) for part in in_parts(groups)]
        if args.against:
            others = {label: runs for label, runs in groups.items() if label != args.against}
            tables += [differences(part, groups[args.against], args.against) for part in in_parts(others)]
        folder = args.out or args.folders[0] / "report"
        write_csv(folder / "results.csv", groups)
        page = write_page(groups, folder, args.against)
        print_tables(tables)
        print(page)


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


if __name__ == "__main__":
    main()
