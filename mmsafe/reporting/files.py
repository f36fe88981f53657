"""Files that are either complete or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmsafe.storage import needs_room


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


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A table as CSV, its header the first of `rows`, atomically."""
    write_atomically(path, csv_text(rows))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, atomically; ASCII only, so that no character in a model's words can break a line or an encoder."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
