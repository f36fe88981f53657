"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmsafe.core.declared import BY_JUDGE, Declared
from mmsafe.core.ranks import is_first
from mmsafe.core.terminal import is_quiet

if TYPE_CHECKING:
    from torch import nn

    from mmsafe.models.parameters import Count
    from mmsafe.runs.run_folder import RunFolder

COLUMNS = 5
"""Of results beside each other in a printed table."""


def table_of(
    title: str, head: Iterable[str], rows: Iterable[Iterable[str | Text]], caption: str | None = None, left: int = 1
) -> Table:
    """A table of plain text, in which the first `left` columns begin at the left and the others, numbers, end right."""
    table = Table(title=Text(title), caption=Text(caption) if caption else None)
    for number, name in enumerate(head):
        table.add_column(Text(name), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def result_table(runs: Mapping[str, Mapping[str, Any]], title: str, declared: Declared, *, tags: bool = False) -> Table:
    """One column per run; value and 95 % interval; a dash where a run did not measure it."""
    shown = [(metric.key, metric.label) for metric in declared.measured(runs.values())]
    shown += _tag_rows(runs, declared) if tags else []
    rows = [[label, *(_cell(metrics, key) for metrics in runs.values())] for key, label in shown]
    judges, by = declared.judged_by([*runs.values()]), " and ".join(declared.clusters)
    intervals = f"95 % intervals in brackets{f', for clusters by {by}' * bool(by)}" if rows else None
    return table_of(
        title,
        ["metric", *runs],
        rows,
        " · ".join(filter(None, (intervals, judges))),
    )


def headline(metrics: Mapping[str, Any], declared: Declared) -> dict[str, float]:
    """The evaluation's main values, without intervals and breakdown: what a logger's chart shows."""
    return {metric.key: metrics[metric.key] for metric in declared.measured([metrics])}


def _tag_rows(runs: Mapping[str, Mapping[str, Any]], declared: Declared) -> list[tuple[str, str]]:
    """What is declared as worth showing by tag, and everything by the members of a jury."""
    names = sorted({key for metrics in runs.values() for key in metrics})
    return [
        (key, f"{metric.label}, {key.removeprefix(f'{metric.key}/')}")
        for metric in declared.metrics
        if (prefix := f"{metric.key}/" if metric.by_tag else f"{metric.key}{BY_JUDGE}")
        for key in names
        if key.startswith(prefix) and any(f"{key}_n" in metrics for metrics in runs.values())
    ]


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    if key not in metrics:
        return "–"
    return f"{metrics[key]:.3f} [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"


def show_trained(model: nn.Module, folder: RunFolder) -> None:
    """Print the parameters of each part and how many are trained, and note them in `folder`."""
    from mmsafe.models.parameters import count_parameters

    counts = count_parameters(model)
    folder.note(parameters={part: count._asdict() for part, count in counts.items()})
    if is_first() and not is_quiet():
        print_tables([trained_table(counts)])


def trained_table(counts: Mapping[str, Count]) -> Table:
    """One row for each part, and one for all."""
    total, trainable = (sum(count[number] for count in counts.values()) for number in (0, 1))
    rows = [*counts.items(), ("all", (total, trainable))]
    return table_of(
        "what is trained",
        ("part", "parameters", "trainable", "share"),
        [[part, f"{n:,}", f"{trained:,}", f"{trained / n:.2%}"] for part, (n, trained) in rows],
    )


def print_tables(tables: Iterable[Table]) -> None:
    """To stdout, wide enough for files and pipes too."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for table in tables:
        console.print(table, markup=False)
