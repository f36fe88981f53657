"""`mmsafe.compare`: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.options import InputName, Share, options
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.evaluation.comparison import Change, Comparison

COLUMNS = ("outcome", "n", "a", "b", "b - a", "p", "Holm", "both", "a only", "b only", "neither")


@options
class CompareConfig:
    """`conf/compare.yaml`, typed."""

    a: InputName
    b: InputName
    max_unpaired: Share


def show_comparison(config: CompareConfig, run: RunContext) -> None:
    """Print the comparison and write it to `comparison.json`."""
    from mmsafe.core.files import write_record
    from mmsafe.evaluation.comparison import compare, read_judged_run
    from mmsafe.evaluation.multiplicity import holm
    from mmsafe.reporting.table import print_tables, table_of

    a, b = config.a, config.b
    comparison = compare(read_judged_run(Path(a)), read_judged_run(Path(b)), config.max_unpaired)
    write_record(run.folder / "comparison.json", {"a": a, "b": b, **comparison.as_json()})
    title = f"{comparison.benchmark}: from a={a} to b={b}, {len(comparison.ids)} prompts"
    corrected = holm([change.paired.p for change in comparison.changes.values()])
    rows = [_row(*item, p) for item, p in zip(comparison.changes.items(), corrected, strict=True)]
    print_tables([table_of(title, COLUMNS, rows, " · ".join(_notes(comparison)))])
    show_results(run.folder / "comparison.json", f"python -m mmsafe.samples runs=[{as_text(a)},{as_text(b)}]")


def _row(name: str, change: Change, corrected: float) -> list[str]:
    """Shares, difference, test, its p corrected for the number of tests, and the 2×2 table of counts."""
    paired, moved = change.paired, change.paired.difference
    bounds = f" ({change.lowest:+.3f} to {change.highest:+.3f})" if change.lowest < change.highest else ""
    return [
        name,
        str(moved.n),
        f"{(paired.both + paired.first_only) / moved.n:.3f}",
        f"{(paired.both + paired.second_only) / moved.n:.3f}",
        f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]{bounds}",
        f"{paired.p:.2g}",
        f"{corrected:.2g}",
        *map(str, (paired.both, paired.first_only, paired.second_only, paired.neither)),
    ]


def _notes(comparison: Comparison) -> Iterator[str]:
    yield f"judge: {comparison.judge}"
    yield "brackets: 95 % paired bootstrap"
    yield "p: McNemar's exact test, each by itself; Holm: corrected for their number"
    if any(comparison.unknown):
        a, b = comparison.unknown
        yield f"unknown, counted as unsafe: {a} in a, {b} in b; parentheses: whatever these were in truth"
    if any(comparison.left_out.values()):
        yield "left out: " + ", ".join(f"{len(ids)} {why}" for why, ids in comparison.left_out.items() if ids)
