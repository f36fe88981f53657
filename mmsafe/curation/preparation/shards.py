"""Rows of a split as files of a bounded size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "arrow"]
GROUP_ROWS = 1000
GROUP_BYTES = 2**25
"""Limits of what is in memory: a row group of a parquet file, a record batch of an Arrow file."""


class ShardWriter:
    """Writes `{split}-00000-of-00003.parquet` and so on; what they are called is known at the end."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, form: Format, max_bytes: int) -> None:
        self._folder, self._split, self._schema, self._form = folder, split, schema, form
        self._max_bytes, self._group_bytes = max_bytes, min(max_bytes, GROUP_BYTES)
        self._files: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0  # bytes of these rows
        self._written = 0  # bytes of the open file, before compression
        self._open: tuple[IO[bytes], Any] | None = None

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; it is on the disk after a group of them, or at `close`."""
        self._rows.append(row)
        self._waiting += size(row)
        if len(self._rows) == GROUP_ROWS or self._waiting >= self._group_bytes:
            self._flush()

    def close(self) -> list[Path]:
        """Finish and return the files, at least one."""
        if self._rows or not self._files:
            self._flush()
        self._close_file()
        named = [
            file.with_name(f"{self._split}-{number:05}-of-{len(self._files):05}.{self._form}")
            for number, file in enumerate(self._files)
        ]
        for file, name in zip(self._files, named, strict=True):
            file.rename(name)
        return named

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        if self._open is not None and self._written + self._waiting > self._max_bytes:
            self._close_file()
        if self._open is None:
            self._open_file()
        assert self._open is not None
        self._open[1].write_table(table)
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def _open_file(self) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        path = self._folder / f"{self._split}-{len(self._files):05}.{self._form}"
        file = path.open("wb")
        self._files.append(path)
        writer = ParquetWriter(file, self._schema) if self._form == "parquet" else pa.ipc.new_stream(file, self._schema)
        self._open = file, writer

    def _close_file(self) -> None:
        if self._open is None:
            return
        file, writer = self._open
        writer.close()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._open, self._written = None, 0


def size(value: Any) -> int:
    """Bytes and characters that a row holds."""
    if isinstance(value, dict):
        return sum(size(item) for item in value.values())
    if isinstance(value, list):
        return sum(size(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 0
