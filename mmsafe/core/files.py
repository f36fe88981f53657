"""Files that are either complete or not there."""

import csv
import io
import json
import os
import string
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.core.secrets import masked
from mmsafe.core.storage import needs_room

FORMULA = tuple("=+-@＝＋－＠")
"""What formulas begin with; the wide forms count in some languages."""
BLANKS = string.whitespace + "\u00a0\ufeff\"'`"
"""What may stand before it: blanks and quotes."""
STEP = "step"
"""The first column of a `metrics.csv`, which `csv_log` writes."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, wait for the disk, then rename over it; raises `UserError` if there is no room."""
    with needs_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object, indented, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """The same of what a command was given or found, without secrets."""
    write_json(path, masked(value))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A table as CSV, its header the first of `rows`, atomically."""
    write_atomically(path, csv_text(rows))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of CSV; before words that a spreadsheet would run as a formula stands an apostrophe."""
    return "".join(map(_line, rows))


def csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The cells of lines that `csv_text` made, as they were; raises `csv.Error` for what is no CSV."""
    for row in csv.reader(lines):
        yield [cell[1:] if cell.startswith("'") and _is_marked(cell[1:]) else cell for cell in row]


def _line(row: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_inert(cell) for cell in row])  # with "\n" as its end it would leave "\r" unquoted
    return text.getvalue().removesuffix("\r\n") + "\n"


def _inert(cell: Any) -> Any:
    return f"'{cell}" if not isinstance(cell, int | float | None) and _is_marked(str(cell)) else cell


def _is_marked(text: str) -> bool:
    """Whether an apostrophe is put before it: what may be run, and what would else be read as such with its mark."""
    return _runs(text) or _runs(text.lstrip("'"))


def _runs(text: str) -> bool:
    """Whether this may be run (OWASP, CSV injection), also with blanks or quotes before it; numbers are not."""
    if not text.lstrip(BLANKS).startswith(FORMULA) and not text.startswith(("\t", "\r", "\n")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, atomically; ASCII only, so that no character in a model's words can break a line or an encoder."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, each with its `step` and the metrics it has; none where there is no file."""
    return [{STEP: step, **values} for step, values in read_columns(path)[1].items()]


def read_columns(path: Path) -> tuple[list[str], dict[int, dict[str, float]]]:
    """The names of the metrics and, by step, their values; a last line that a kill left half-written is left out."""
    if not path.exists():
        return [], {}
    try:
        text = path.read_bytes().decode("utf-8")
        # A line is complete with its line break, and neither a name nor a number holds another one.
        lines = csv_rows(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        first, *columns = next(lines, [STEP])
        if first != STEP:
            raise ValueError(f"its first column is not {STEP!r}")
        return columns, {
            int(step): {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
            for step, *cells in lines
        }
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: was not written by mmsafe ({error}); move it away to run in this folder") from error
