"""Rows of JSON and JSONL files, as they stand there; every complaint names the file, and the row or line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmsafe.errors import UserError

SUFFIXES = (".json", ".jsonl")
REQUIRED = ("question", "image", "chosen", "rejected")  # fields without which a row is of no use


class RowError(Exception):
    """Why a row cannot be used: a `reason` to count and a message, which quotes none of the row's text."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Record(NamedTuple):
    """A row as it stands in its file; numbers count from 1 and are line numbers in JSONL."""

    file: Path
    number: int
    value: Any
    keyword: str | None = None
    without_split: bool = False

    def place(self) -> str:
        """Where to look for the row: file, row number and id."""
        name = self.value.get("id") if isinstance(self.value, dict) else None
        return f"{self.file}: row {self.number}" + (f" (id {name!r:.40})" if isinstance(name, str | int) else "")


def read_records(
    path: Path, option: str, split: str | None = None, keywords: Sequence[str] | None = None
) -> list[Record]:
    """The rows of a file, of a folder's file for `split`, or of the files that a keyed file names."""
    file = _file_of_split(path, option, split) if path.is_dir() else path
    content = _contents(file, option)
    if isinstance(content, list):
        if keywords is not None:
            raise UserError(f"data.keywords is set, but {file} is a list of rows without keywords: set it to null")
        return _records(file, content, split)
    if set(REQUIRED) & set(content) or not all(isinstance(name, str) for name in content.values()):
        raise UserError(f"{file}: is one JSON object, where a list of rows or {{keyword: file name}} is expected")
    records = []
    for keyword in content if keywords is None else dict.fromkeys(keywords):
        if keyword not in content:
            raise _unknown(f"data.keywords: {file} has no keyword", keyword, content)
        part, origin = file.parent / content[keyword], f"keyword {keyword!r} of {file}"
        rows = _contents(part, origin)
        if isinstance(rows, dict):
            raise UserError(f"{origin}: {part} holds an object, where a list of rows is expected")
        records += _records(part, rows, split, keyword)
    return records


def read_object(file: Path, option: str) -> dict[str, Any]:
    """The one JSON object that a file holds."""
    content = _contents(file, option)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a list, where one object is expected")
    return content


def _records(file: Path, rows: list[tuple[int, Any]], split: str | None, keyword: str | None = None) -> list[Record]:
    """The rows of a file that belong to `split`: all, if none of them says to which split it belongs."""
    objects = ((number, row) for number, row in rows if isinstance(row, dict))
    named = {number: row["split"] for number, row in objects if isinstance(row.get("split"), str)}
    if split is None or not named:
        return [Record(file, number, row, keyword) for number, row in rows]
    if split not in named.values():
        raise _unknown(f"data.split: no row of {file} has split", split, set(named.values()))
    return [
        Record(file, number, row, keyword, without_split=isinstance(row, dict) and number not in named)
        for number, row in rows
        if named.get(number, split) == split
    ]


def _file_of_split(folder: Path, option: str, split: str | None) -> Path:
    files = {file.stem: file for suffix in reversed(SUFFIXES) for file in folder.glob(f"*{suffix}")}
    if not files:
        raise UserError(f"{option}: the folder {folder} holds no .json or .jsonl file")
    if split is None:
        raise UserError(f"{option} is a folder, {folder}: set data.split to one of {', '.join(sorted(files))}")
    if split not in files:
        raise _unknown(f"data.split: {folder} has no file for split", split, files)
    return files[split]


def _contents(file: Path, option: str) -> list[tuple[int, Any]] | dict[str, Any]:
    """The numbered rows of a file, or the object that it holds; JSONL is read line by line."""
    try:
        if file.suffix == ".jsonl":
            with file.open("rb") as lines:
                return [(number, _parse(line, file, number)) for number, line in enumerate(lines, 1) if line.strip()]
        value = _parse(file.read_bytes(), file, 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"{option}: cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise UserError(f"{file}: holds {kind(value)}, where a list of rows or {{keyword: file name}} is expected")
    return list(enumerate(value, 1))


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


def _unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, known := sorted(known), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"{what} {name!r}{hint}; there are: {', '.join(known)}")


def text_field(value: dict[str, Any], field: str) -> str:
    """The text of a field; raises `RowError` if there is none or it could not be written to a file."""
    if field not in value:
        raise RowError("missing field", f"has no field '{field}'")
    text = value[field]
    if not isinstance(text, str):
        raise RowError("wrong type", f"'{field}' is {kind(text)}, where text is expected")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise RowError("broken text", f"'{field}' holds half of a surrogate pair at {place}; repair it") from error
    return text


def row_id(record: Record) -> str:
    """The row's own id, or its number."""
    name = record.value.get("id")
    if name is None:
        return str(record.number)
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return text_field(record.value, "id")


def kind(value: Any) -> str:
    """What a JSON value is, in the words of a message."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
