"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmsafe.core.declared import Declared


def result_table(runs: Mapping[str, Mapping[str, Any]], title: str, declared: Declared, *, tags: bool = False) -> Table:
    """One column per run; value and 95 % interval; a dash where a run did not measure it."""
    table = Table(title=Text(title))
    table.add_column("metric")
    for name in runs:
        table.add_column(name, justify="right")
    rows = [(metric.key, metric.label) for metric in declared.measured(runs.values())]
    for key, label in [*rows, *(_tag_rows(runs, declared) if tags else [])]:
        table.add_row(label, *(_cell(metrics, key) for metrics in runs.values()))
    if judges := declared.judged_by(runs.values()):
        table.caption = f"95 % intervals in brackets · {judges}"
    return table


def headline(metrics: Mapping[str, Any], declared: Declared) -> dict[str, float]:
    """The evaluation's main values, without intervals and breakdown: what a logger's chart shows."""
    return {metric.key: metrics[metric.key] for metric in declared.measured([metrics])}


def _tag_rows(runs: Mapping[str, Mapping[str, Any]], declared: Declared) -> list[tuple[str, str]]:
    """What is declared as worth showing by tag."""
    names = sorted({key for metrics in runs.values() for key in metrics})
    return [
        (key, f"{metric.label}, {key.removeprefix(prefix)}")
        for metric in declared.metrics
        if metric.by_tag and (prefix := f"{metric.key}/")
        for key in names
        if key.startswith(prefix) and any(f"{key}_n" in metrics for metrics in runs.values())
    ]


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    if key not in metrics:
        return "–"
    return f"{metrics[key]:.3f} [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"


def print_tables(tables: Sequence[Table]) -> None:
    """To stdout, wide enough for files and pipes too."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for table in tables:
        console.print(table, markup=False)
