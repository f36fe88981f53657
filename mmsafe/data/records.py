"""Rows of JSON, JSONL and parquet files, as they stand there; every complaint names the file, and the row or line."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.data.decoding import no_name, refuse_pointer
from mmsafe.data.row_error import RowError
from mmsafe.data.splits import TABLES, files_of_split, unknown

MAX_TEXT = 2**20
"""Characters of a text; many times what any model reads."""
MAX_LINE = 2**26
"""Bytes of a line of JSONL."""
MAX_JSON = 2**32
"""Bytes of a JSON file, which is read as a whole."""
MORE = "\0"
METADATA = re.compile(r"metadata(?:-\d+-of-\d+)?\.(?:jsonl|csv|parquet)")
FILE_NAME = re.compile(r"(?:(.+)_)?file_name(s?)")
REQUIRED = ("question", "image", "chosen", "rejected")  # fields without which a row is of no use


class Record(NamedTuple):
    """A row as it stands in its file; numbers count from 1 and are line numbers in JSONL."""

    file: Path
    number: int
    value: Any
    keyword: str | None = None
    problem: RowError | None = None
    """Why it cannot be used, where that is known before its fields are looked at."""
    prefix: str = ""
    """Tells its id from those of other files, each of which counts from the start."""

    def place(self) -> str:
        """Where to look for the row: file, row number and id."""
        name = self.value.get("id") if isinstance(self.value, dict) else None
        return f"{self.file}: row {self.number}" + (f" (id {name!r:.40})" if isinstance(name, str | int) else "")


Fields = Sequence[str] | None  # of a table, which are read; None: all
Rows = Callable[[Fields], Iterable[tuple[int, Any]]]  # the numbered rows of a file, at each call from the first on


def read_records(
    path: Path,
    option: str,
    split: str | None = None,
    keywords: Sequence[str] | None = None,
    split_option: str = "data.split",
    *,
    streamed: bool = False,
) -> Iterator[Record]:
    """The rows of a file, of a folder's files for `split`, or of the files that a keyed file names.

    With `streamed`, images in tables can be read only until the next rows are asked for, and memory holds a portion of
    the rows: of all files but .json ones.
    """
    files = files_of_split(path, option, split, split_option) if path.is_dir() else [path]
    if len(files) > 1:
        for file in files:
            prefix = f"{file.relative_to(path).with_suffix('').as_posix()}/"
            yield from _records(file, _rows(file, option, streamed), split, prefix)
        return
    (file,) = files
    content = None if _has_lines(file) else _json(file, option)
    if isinstance(content, dict):
        for keyword, part in _keyed_files(file, content, keywords).items():
            rows = _rows(part, f"keyword {keyword!r} of {file}", streamed)
            for record in _records(part, rows, split, f"{keyword}/"):
                yield record._replace(keyword=keyword)
        return
    if keywords is not None:
        raise UserError(f"data.keywords is set, but {file} is a list of rows without keywords: set it to null")
    yield from _records(file, _rows(file, option, streamed) if content is None else _numbered(content), split)


def _keyed_files(file: Path, content: dict[str, Any], keywords: Sequence[str] | None) -> dict[str, Path]:
    """The files that a keyed file names, by keyword."""
    if set(REQUIRED) & set(content) or not all(isinstance(name, str) for name in content.values()):
        raise UserError(f"{file}: is one JSON object, where a list of rows or {{keyword: file name}} is expected")
    for keyword in keywords or ():
        if keyword not in content:
            raise unknown(f"data.keywords: {file} has no keyword", keyword, content)
    return {keyword: file.parent / content[keyword] for keyword in (content if keywords is None else keywords)}


def read_object(file: Path, option: str) -> dict[str, Any]:
    """The one JSON object that a file holds."""
    if not isinstance(content := _json(file, option), dict):
        raise UserError(f"{file}: holds a list, where one object is expected")
    return content


def _records(file: Path, rows: Rows, split: str | None, prefix: str = "") -> Iterator[Record]:
    """The rows of a file that belong to `split`: all, if none of them says to which split it belongs."""
    splits: set[str] = set()
    if split is not None:
        objects = (row for _, row in rows(["split"]) if isinstance(row, dict))
        splits = {row["split"] for row in objects if isinstance(row.get("split"), str)}
    if splits and split not in splits:
        raise unknown(f"data.split: no row of {file} has split", str(split), splits)
    for number, row in rows(None):
        problem = row if isinstance(row, RowError) else None
        if splits and isinstance(row, dict) and row.get("split") != split:
            if isinstance(row.get("split"), str):
                continue
            problem = RowError("missing field", "has no text field 'split', which other rows of the file have")
        value = _with_images(row) if isinstance(row, dict) and METADATA.match(file.name) else row
        yield Record(file, number, None if isinstance(row, RowError) else value, problem=problem, prefix=prefix)


def _with_images(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an image folder, with the files that it names under the columns that `datasets` makes of them."""
    names = {name: match for name in row if (match := FILE_NAME.fullmatch(name))}
    return {match[1] or f"image{match[2]}" if (match := names.get(name)) else name: row[name] for name in row}


def _has_lines(file: Path) -> bool:
    """Whether the file's ending says that it holds rows; else it is one JSON value."""
    return file.suffix in TABLES or file.name.endswith((".jsonl", ".jsonl.gz", ".csv"))


def _rows(file: Path, origin: str, streamed: bool) -> Rows:
    """The rows of a file that holds a list of them."""
    if _has_lines(file):
        return partial(_read, file, origin, stored=not streamed)
    if isinstance(content := _json(file, origin), dict):
        raise UserError(f"{origin}: {file} holds an object, where a list of rows is expected")
    return _numbered(content)


def _numbered(content: list[Any]) -> Rows:
    return lambda fields: enumerate(content, 1)


def _read(file: Path, origin: str, fields: Fields, *, stored: bool) -> Iterator[tuple[int, Any]]:
    """The numbered rows of a table or of JSONL; a row of a table that cannot be read is a `RowError`."""
    with _readable(file, origin):
        if file.suffix in TABLES:
            from mmsafe.data.tables import streamed_rows, table_rows

            yield from table_rows(file) if stored else streamed_rows(file, fields)
        elif file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as text:
                for number, row in enumerate(csv.DictReader(text, restkey=MORE), 1):
                    yield number, RowError("broken row", "has more cells than columns") if MORE in row else row
        else:
            yield from ((number, _parse(line, file, number)) for number, line in _lines(file) if line.strip())


def _json(file: Path, origin: str) -> list[Any] | dict[str, Any]:
    """The list or object that a file holds."""
    with _readable(file, origin):
        if (size := file.stat().st_size) > MAX_JSON:
            raise UserError(f"{file}: has {size / 2**30:.0f} GiB, too much for one JSON text; write it as .jsonl")
        value = _parse(file.read_bytes(), file, 1)
    if not isinstance(value, list | dict):
        raise UserError(f"{file}: holds {kind(value)}, where a list of rows or {{keyword: file name}} is expected")
    return value


@contextmanager
def _readable(file: Path, origin: str) -> Iterator[None]:
    """Raises `UserError` if the file cannot be read; `origin` is the option that names it."""
    try:
        refuse_pointer(file)
        yield
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:  # ValueError: a null byte in the name
        raise UserError(f"{origin}: cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; a packed file of one endless line is not unpacked into memory."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise UserError(f"{file}: line {number} has more than {MAX_LINE >> 20} MiB; is it a file of rows?")
            yield number, line


def _parse(raw: bytes, file: Path, line: int) -> Any:
    """Parse JSON that begins in this line of the file."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise UserError(f"{file}: line {line} is not UTF-8 text ({error.reason}); convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        hint = "; rows one per line need a file name that ends in .jsonl" if error.msg == "Extra data" else ""
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise UserError(f"{file}: broken JSON at {place}: {error.msg}{hint}; get or write the file again") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or very deep nesting
        raise UserError(f"{file}: cannot be read as JSON: {error}") from error


def text_field(value: dict[str, Any], field: str) -> str:
    """The text of a field; raises `RowError` if there is none or it could not be written to a file."""
    if field not in value:
        raise RowError("missing field", f"has no field '{field}'")
    return checked_text(value[field], field)


def checked_text(text: object, field: str) -> str:
    """`text`, if it is one of a size and kind that a model can be shown; else raises `RowError`."""
    if not isinstance(text, str):
        raise RowError("wrong type", f"'{field}' is {kind(text)}, where text is expected")
    if len(text) > MAX_TEXT:
        what = no_name(text) or f"has {len(text)} characters, more than {MAX_TEXT}; no model reads that"
        raise RowError("too long", f"'{field}' {what}")
    if "\0" in text:
        raise RowError("broken text", f"'{field}' holds a null character at {text.index(chr(0))}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError("broken text", f"'{field}' holds half a surrogate pair at {error.start}; repair it") from error
    return text


def row_id(record: Record) -> str:
    """The row's own id, or its number; among several files, with the name of its file."""
    if (name := record.value.get("id")) is None:
        return numbered(record)
    if isinstance(name, int) and not isinstance(name, bool):
        return f"{record.prefix}{name}"
    return record.prefix + text_field(record.value, "id")


def numbered(record: Record) -> str:
    """An id for a row that has none of its own."""
    return f"{record.prefix}{record.number}"


def kind(value: Any) -> str:
    """What a JSON value is, in the words of a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
