"""Two runs side by side, for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from mmsafe.evaluation.comparison import Change, Comparison


def comparison_table(comparison: Comparison, a: str, b: str) -> Table:
    """One row per outcome and category: shares, difference, test, and the 2×2 table of counts."""
    table = Table(title=Text(f"{comparison.benchmark}: from a={a} to b={b}, {len(comparison.ids)} prompts"))
    table.add_column("outcome")
    for name in ("n", "a", "b", "b - a", "p", "both", "a only", "b only", "neither"):
        table.add_column(name, justify="right")
    for name, change in comparison.changes.items():
        table.add_row(Text(name), *_cells(change))
    table.caption = Text(_caption(comparison))
    return table


def _cells(change: Change) -> tuple[str, ...]:
    found, moved = change.paired, change.paired.difference
    counts = (found.both, found.first_only, found.second_only, found.neither)
    bounds = f" ({change.lowest:+.3f} to {change.highest:+.3f})" if change.lowest < change.highest else ""
    return (
        str(moved.n),
        f"{(found.both + found.first_only) / moved.n:.3f}",
        f"{(found.both + found.second_only) / moved.n:.3f}",
        f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]{bounds}",
        f"{found.p:.2g}",
        *map(str, counts),
    )


def _caption(comparison: Comparison) -> str:
    notes = [
        f"judge: {comparison.judge}",
        "brackets: 95 % paired bootstrap",
        "p: McNemar's exact test, each by itself, not corrected for their number",
    ]
    if any(comparison.unknown):
        a, b = comparison.unknown
        notes.append(f"unknown, counted as unsafe: {a} in a, {b} in b; parentheses: whatever these were in truth")
    if any(comparison.left_out.values()):
        notes.append("left out: " + ", ".join(f"{len(ids)} {why}" for why, ids in comparison.left_out.items() if ids))
    return " · ".join(notes)
