"""Rows of a split as files of a bounded size."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from mmsafe.data.example import Example, Fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "arrow", "llamafactory", "swift"]
PEERS = ("llamafactory", "swift")
"""Formats of one JSON file a split."""
GROUP_ROWS = 1000
GROUP_BYTES = 2**25
"""Limits of what is in memory: a row group of a parquet file, a record batch of an Arrow file."""


class SplitWriter:
    """Writes `{split}-00000-of-00003.parquet` and so on; what they are called is known at the end."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, form: Format, max_bytes: int) -> None:
        self._folder, self._split, self._schema, self._form = folder, split, schema, form
        self._suffix, max_bytes = ("jsonl", sys.maxsize) if form in PEERS else (form, max_bytes)
        self._max_bytes, self._group_bytes = max_bytes, min(max_bytes, GROUP_BYTES)
        self._fingerprint = Fingerprint()
        self._count = 0
        self._rows: list[dict[str, Any]] = []
        self._waiting = 0  # bytes of these rows
        self._written = 0  # bytes of the last file, before compression
        self._files: list[tuple[IO[bytes], Any]] = []

    def write(self, example: Example, row: dict[str, Any]) -> None:
        """Add an example as a row; it is on the disk after a group of them, or at `close`."""
        self._fingerprint.add(example)
        self._count += 1
        self._rows.append(row)
        self._waiting += size(row)
        if len(self._rows) == GROUP_ROWS or self._waiting >= self._group_bytes:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Finish the files, at least one, and return what is told of the split.

        The fingerprint is that which a run that trains on these examples has in its `run.json`.
        """
        if self._rows or not self._files:
            self._flush()
        self._close_file()
        shards = []
        for number, (file, _) in enumerate(self._files):
            name = f"{self._split}-{number:05}-of-{len(self._files):05}.{self._suffix}"
            shards.append(Path(file.name).rename(self._folder / name))
        return {
            "rows": self._count,
            "shards": [f"{self._folder.name}/{shard.name}" for shard in shards],
            "bytes": sum(shard.stat().st_size for shard in shards),
            "fingerprint": self._fingerprint.value(),
        }

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        table = None if self._form in PEERS else pa.Table.from_pylist(self._rows, schema=self._schema)
        if not self._files or self._written + self._waiting > self._max_bytes:
            if self._files:
                self._close_file()
            file: IO[bytes] = (self._folder / f"{self._split}-{len(self._files):05}.{self._suffix}").open("wb")
            open_writer = {"parquet": ParquetWriter, "arrow": pa.ipc.new_stream}.get(self._form)
            self._files.append((file, open_writer and open_writer(file, self._schema)))
            self._written = 0
        file, writer = self._files[-1]
        if table is None:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in self._rows)
        else:
            writer.write_table(table)
        self._written += self._waiting
        self._rows, self._waiting = [], 0

    def _close_file(self) -> None:
        file, writer = self._files[-1]
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
        file.close()


def size(value: Any) -> int:
    """Bytes and characters that a row holds."""
    if isinstance(value, dict):
        return sum(size(item) for item in value.values())
    if isinstance(value, list):
        return sum(size(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 0
