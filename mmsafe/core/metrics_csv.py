"""Reading `metrics.csv`; `csv_log` writes it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.files import csv_rows

STEP = "step"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, each with its `step` and the metrics it has; none where there is no file.

    A last line that was only half written, because the process was killed, is left out.
    """
    return [{STEP: step, **values} for step, values in read_columns(path)[1].items()]


def read_columns(path: Path) -> tuple[list[str], dict[int, dict[str, float]]]:
    """The names of the metrics and, by step, their values; a half-written last line is left out."""
    if not path.exists():
        return [], {}
    try:
        text = path.read_bytes().decode("utf-8")
        # A line is complete with its line break, and neither a name nor a number holds another one.
        lines = csv_rows(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        first, *columns = next(lines, [STEP])
        if first != STEP:
            raise ValueError(f"its first column is not {STEP!r}")
        return columns, {int(line[0]): _values(columns, line[1:]) for line in lines}
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path}: was not written by mmsafe ({error}); move it away to run in this folder") from error


def _values(columns: Sequence[str], cells: Sequence[str]) -> dict[str, float]:
    return {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
