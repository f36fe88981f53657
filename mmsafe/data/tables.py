"""Rows of parquet and Arrow files, mapped from disk or in portions; images in them are read when they are needed."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsafe.core.cache import cached_folder
from mmsafe.core.errors import UserError
from mmsafe.data.decoding import EncodedImage
from mmsafe.data.example import digest
from mmsafe.data.row_error import RowError

BATCH = 1000
PORTION = 100
"""Rows of a parquet file that are in memory at once where it is streamed, with their images."""
BUFFER = 2**20
"""Bytes that are read of a column at once."""
Rows = Iterator[tuple[int, "dict[str, Any] | RowError"]]


@dataclass(frozen=True, eq=False)
class StoredImage(EncodedImage):
    """An image in a column of a table: an encoded file's bytes, the path of a file, or both."""

    name: str
    column: Any = field(repr=False)
    """A `pyarrow.ChunkedArray`, which is mapped from disk, or a portion of it in memory."""
    row: int
    position: int | None = None
    """In the list that the cell holds; None: the cell is the image."""

    @property
    def path(self) -> str | None:
        """The file that the cell names in place of bytes."""
        data, path = self._cell()
        return path if data is None else None

    def data(self) -> bytes:
        data, _ = self._cell()
        if not data:
            raise self.error("holds no image; get the file again")
        return data

    def _cell(self) -> tuple[bytes | None, str | None]:
        cell = self.column[self.row]
        value = (cell if self.position is None else cell[self.position]).as_py() or {}
        return (value, None) if isinstance(value, bytes) else (value.get("bytes"), value.get("path"))


def table_rows(file: Path) -> Rows:
    """Numbered rows, in which images and lists of them are `StoredImage`s; a `RowError` stands for one that is broken.

    Raises `UserError` if the file cannot be read. An Arrow file is mapped from disk; of a parquet file `datasets` makes
    one in the cache.
    """
    with _readable(file):
        table = _mapped(file)
    return _rows(table, file)


def streamed_rows(file: Path, fields: Sequence[str] | None = None) -> Rows:
    """The same rows, a portion in memory at a time, of which nothing is kept; only `fields`, where they are named."""
    count = 0
    with _readable(file):
        for table in _portions(file, fields):
            yield from _rows(table, file, count)
            count += len(table)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raises `UserError` if the file cannot be read as a table."""
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    if not file.is_file():
        raise FileNotFoundError(2, "No such file or directory")
    try:
        yield
    except (OSError, ValueError, DatasetsError, ArrowException) as error:
        kind, cause = file.suffix.removeprefix("."), type(error.__cause__ or error).__name__
        raise UserError(f"{file}: cannot be read as {kind} ({cause}); get it again") from error


def _rows(table: Any, file: Path, before: int = 0) -> Rows:
    """The rows of a table that is a part of a file, with so many rows `before` it."""
    stored = {name: table.column(name) for name in table.column_names if _holds_images(table.schema.field(name).type)}
    plain = table.drop_columns(list(stored))
    for begin in range(0, len(table), BATCH):
        for row, values in enumerate(_values(plain.slice(begin, BATCH), min(BATCH, len(table) - begin)), begin):
            number = before + row + 1
            if isinstance(values, dict):
                values |= {name: _image(f"'{name}' of {file}: row {number}", stored[name], row) for name in stored}
            yield number, values


def _mapped(file: Path) -> Any:
    """The table of a file, mapped from disk."""
    from datasets import Dataset
    from pyarrow import concat_tables

    def make(folder: Path) -> None:
        Dataset.from_parquet(glob.escape(str(file.resolve())), cache_dir=str(folder))

    parts = [file]
    if file.suffix != ".arrow":
        state = file.stat()
        key = digest([str(file.resolve()), state.st_size, state.st_mtime_ns])
        parts = sorted(cached_folder("tables", key, make).rglob("*.arrow"))
    return concat_tables([Dataset.from_file(str(part)).data.table for part in parts])


def _portions(file: Path, fields: Sequence[str] | None) -> Iterator[Any]:
    """Tables of a few rows, read and not mapped: mapped pages would count as memory of this process."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with file.open("rb") as opened:
        if file.suffix == ".arrow":
            for batch in pa.ipc.open_stream(opened):
                table = pa.Table.from_batches([batch])
                yield table if fields is None else table.select([name for name in fields if name in table.column_names])
            return
        with ParquetFile(opened, buffer_size=BUFFER, pre_buffer=False) as parquet:
            columns = [name for name in parquet.schema_arrow.names if fields is None or name in fields]
            for batch in parquet.iter_batches(PORTION, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])


def _holds_images(kind: Any) -> bool:
    """Whether a column is of images as `datasets` stores them, of lists of them, or of bytes."""
    from pyarrow import types

    if _is_list(kind):
        return _holds_images(kind.value_type)
    if types.is_struct(kind):
        return any(part.name == "bytes" and (types.is_null(part.type) or _holds_images(part.type)) for part in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _values(rows: Any, count: int) -> list[dict[str, Any] | RowError]:
    """So many rows as plain values; where one is broken, they are looked at singly."""
    if not rows.num_columns:
        return [{} for _ in range(count)]
    try:
        return list(rows.to_pylist())
    except UnicodeDecodeError as error:
        if count == 1:
            return [RowError("broken text", f"holds text that is not UTF-8 ({error.reason}); repair it")]
        return [value for row in range(count) for value in _values(rows.slice(row, 1), 1)]


def _image(place: str, column: Any, row: int) -> StoredImage | list[StoredImage] | None:
    from pyarrow.types import is_struct

    cell = column[row]
    if not cell.is_valid:
        return None
    if is_struct(cell.type) and not any(part.is_valid for part in cell.values()):
        return None  # as rows without image are written by what knows no null structs
    if _is_list(cell.type):
        return [StoredImage(place, column, row, position) for position in range(len(cell))]
    return StoredImage(place, column, row)
