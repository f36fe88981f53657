"""What a run trains: a table at its start, and the same numbers in `run.json`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from torch import nn

from mmsafe.core.ranks import is_first
from mmsafe.models.parameters import Count, count_parameters
from mmsafe.reporting.table import print_tables
from mmsafe.runs.run_folder import RunFolder


def show_trained(model: nn.Module, folder: RunFolder) -> None:
    """Print the parameters of each part and how many are trained, and note them in `folder`."""
    counts = count_parameters(model)
    folder.note(parameters={part: count._asdict() for part, count in counts.items()})
    if is_first():
        print_tables([trained_table(counts)])


def trained_table(counts: Mapping[str, Count]) -> Table:
    """One row for each part, and one for all."""
    table = Table(title="what is trained")
    table.add_column("part")
    for name in ("parameters", "trainable", "share"):
        table.add_column(name, justify="right")
    total = Count(*map(sum, zip(*counts.values(), strict=True)))
    for part, count in {**counts, "all": total}.items():
        if part == "all":
            table.add_section()
        table.add_row(part, f"{count.total:,}", f"{count.trainable:,}", f"{count.trainable / count.total:.2%}")
    return table
