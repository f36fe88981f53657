"""Rows of parquet and Arrow files, mapped from disk or in portions; images in them are read when they are needed."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.core.cache import cached_folder
from mmsafe.core.errors import UserError
from mmsafe.data.example import digest
from mmsafe.data.images import EncodedImage
from mmsafe.data.row_error import RowError

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 1000
PORTION = 100
"""Rows of a parquet file that are in memory at once where it is streamed, with their images."""
BUFFER = 2**20
"""Bytes that are read of a column at once."""
Rows = Iterator[tuple[int, "dict[str, Any] | RowError"]]


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image in a column of a table: an encoded file's bytes, the path of a file, or both."""

    name: str
    column: Any = field(repr=False)
    """A `pyarrow.ChunkedArray`, which is mapped from disk, or a portion of it in memory."""
    row: int
    position: int | None = None
    """In the list that the cell holds; None: the cell is the image."""

    @cached_property
    def key(self) -> str:
        """SHA-256 of the bytes, as that of a file which holds them."""
        return self._encoded().key

    @property
    def path(self) -> str | None:
        """The file that the cell names in place of bytes."""
        data, path = self._cell()
        return path if data is None else None

    def load(self) -> Image:
        """Decode every pixel to RGB, upright; raises `UserError` naming the row where that fails."""
        return self._encoded().load()

    def data(self) -> bytes:
        """The encoded file."""
        return self._encoded().data

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""
        self._encoded().check(decode)

    def _encoded(self) -> EncodedImage:
        data, _ = self._cell()
        if not data:
            raise UserError(f"{self.name}: holds no image; get the file again")
        return EncodedImage(data, self.name)

    def _cell(self) -> tuple[bytes | None, str | None]:
        cell = self.column[self.row]
        value = (cell if self.position is None else cell[self.position]).as_py() or {}
        return (value, None) if isinstance(value, bytes) else (value.get("bytes"), value.get("path"))


def table_rows(file: Path) -> Rows:
    """Numbered rows, in which images and lists of them are `StoredImage`s; a `RowError` stands for one that is broken.

    Raises `UserError` if the file cannot be read. An Arrow file is mapped from disk; of a parquet file `datasets` makes
    one in the cache.
    """
    return _rows(_table(file), file)


def streamed_rows(file: Path, fields: Sequence[str] | None = None) -> Rows:
    """The same rows, a portion in memory at a time, of which nothing is kept; only `fields`, where they are named."""
    from pyarrow import ArrowException

    _refuse_missing(file)
    count = 0
    try:
        for table in _portions(file, fields):
            yield from _rows(table, file, count)
            count += len(table)
    except (OSError, ValueError, ArrowException) as error:
        raise _unreadable(file, error) from error


def _rows(table: Any, file: Path, before: int = 0) -> Rows:
    """The rows of a table that is a part of a file, with so many rows `before` it."""
    columns = {name: table.column(name) for name in table.column_names}
    stored = {name: column for name, column in columns.items() if _holds_images(column.type)}
    plain = table.select([name for name in columns if name not in stored])
    for begin in range(0, len(table), BATCH):
        for row, values in enumerate(_values(plain.slice(begin, BATCH), len(table) - begin), begin):
            number = before + row + 1
            if isinstance(values, dict):
                images = {name: _image(f"'{name}' of {file}: row {number}", stored[name], row) for name in stored}
                values |= images
            yield number, values


def _table(file: Path) -> Any:
    from datasets import Dataset
    from datasets.exceptions import DatasetsError
    from pyarrow import concat_tables

    def make(folder: Path) -> None:
        Dataset.from_parquet(glob.escape(str(file.resolve())), cache_dir=str(folder))

    _refuse_missing(file)
    try:
        parts = [file]
        if file.suffix != ".arrow":
            state = file.stat()
            key = digest([str(file.resolve()), state.st_size, state.st_mtime_ns])
            parts = sorted(cached_folder("tables", key, make).rglob("*.arrow"))
        return concat_tables([Dataset.from_file(str(part)).data.table for part in parts])
    except (OSError, ValueError, DatasetsError) as error:
        raise _unreadable(file, error) from error


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
            names = parquet.schema_arrow.names
            columns = [name for name in names if fields is None or name in fields]
            for batch in parquet.iter_batches(PORTION, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(2, "No such file or directory")


def _unreadable(file: Path, error: Exception) -> UserError:
    kind, cause = file.suffix.removeprefix("."), type(error.__cause__ or error).__name__
    return UserError(f"{file}: cannot be read as {kind} ({cause}); get it again")


def _holds_images(kind: Any) -> bool:
    """Whether a column is of images as `datasets` stores them, of lists of them, or of bytes."""
    import pyarrow.types as is_

    if _is_list(kind):
        return _holds_images(kind.value_type)
    if is_.is_struct(kind):
        return any(part.name == "bytes" and (is_.is_null(part.type) or _holds_images(part.type)) for part in kind)
    return bool(is_.is_binary(kind) or is_.is_large_binary(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow.types as is_

    return bool(is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind))


def _values(rows: Any, at_most: int) -> list[dict[str, Any] | RowError]:
    """Rows as plain values; where one is broken, they are looked at singly."""
    if not rows.num_columns:
        return [{} for _ in range(min(BATCH, at_most))]
    try:
        return list(rows.to_pylist())
    except UnicodeDecodeError as error:
        if len(rows) == 1:
            return [RowError("broken text", f"holds text that is not UTF-8 ({error.reason}); repair it")]
        return [value for row in range(len(rows)) for value in _values(rows.slice(row, 1), 1)]


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
