"""MMSafe-PO, multimodal preference pairs made from HH-RLHF (arXiv 2503.14189): a JSON file and a folder of images."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from mmsafe.data import images
from mmsafe.data.example import Example, Turn, digest
from mmsafe.data.images import FileImage
from mmsafe.data.source import DataSource, Loaded
from mmsafe.errors import UserError
from mmsafe.options import Share, options

PLACEHOLDER = "<image>"
RESPONSES = ("chosen", "rejected", "blind")
SUFFIXES = (".json", ".jsonl")
REQUIRED = ("question", "image", "chosen", "rejected")
SPEAKER = re.compile(r"(?:^|(?<=\s))(USER|ASSISTANT):")


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


class Row(NamedTuple):
    """A row that could be read: its place for messages, its example, and what keeps it on one side of a hold-out."""

    place: str
    example: Example
    image: FileImage
    group: str


@options
class MMSafePO(DataSource):
    """Reader of MMSafe-PO and of other sets with its fields: `question`, `image`, `chosen`, `rejected`."""

    path: Path | None = None
    """Required: a JSON list, a JSONL file, an object `{"keyword": "path.json"}` or a folder with `{split}.json`."""
    image_dir: Path | None = None
    """Folder of the images; null: `images` beside the JSON file if there is one, else the JSON file's own folder."""
    split: str | None = None
    """Which file of a folder, and which rows of a file whose rows carry a `split`; null: all rows."""
    keywords: list[str] | None = None
    """Which files of a `{"keyword": "path.json"}` object are read; null: all."""
    eval_path: Path | None = None
    """A file to evaluate on, all of its rows; null: a share of `path` is held out."""
    holdout_share: Share = 0.1
    """Share of the rows that is held out where `eval_path` is null; the rows of an image stay on one side."""
    on_bad: Literal["error", "skip"] = "error"
    """A bad row ends the command, naming place and cause, or is dropped and counted."""
    check_images: Literal["header", "decode"] = "decode"
    """How images are checked when the rows are read: `decode` finds truncated files, `header` is faster."""

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError(
                "data.path is not set: get MMSafe-PO and set data.path to its JSON file, data.image_dir to its images"
            )
        if self.eval_path is not None and self.eval_path.resolve() == self.path.resolve():
            raise UserError("data.eval_path is the same file as data.path: leave it null to hold out a share")

    def train(self) -> Loaded:
        """The rows of `path` that are not held out, and the count of everything dropped from `path`."""
        rows, dropped = self._rows
        kept = [row.example for row in rows if row.group not in self._held_out]
        if not kept:
            raise UserError("data.holdout_share=1 leaves nothing to train on: lower it, or set data.eval_path")
        return Loaded(kept, dict(dropped))

    def holdout(self) -> Loaded:
        """The rows of `eval_path`, or the held-out rows of `path`, whose dropped rows `train` counts."""
        if self.eval_path is None:
            return Loaded([row.example for row in self._rows[0] if row.group in self._held_out])
        rows, dropped = self._eval_rows
        return Loaded([row.example for row in rows], dict(dropped))

    def test(self) -> Loaded:
        """All rows of `path`."""
        rows, dropped = self._rows
        return Loaded([row.example for row in rows], dict(dropped))

    @cached_property
    def _rows(self) -> tuple[list[Row], Counter[str]]:
        assert self.path is not None  # __post_init__ has refused that
        return self._read(read_records(self.path, "data.path", self.split, self.keywords), self.path)

    @cached_property
    def _eval_rows(self) -> tuple[list[Row], Counter[str]]:
        assert self.eval_path is not None  # only holdout() reads it, after it has looked
        return self._read(read_records(self.eval_path, "data.eval_path"), self.eval_path)

    @cached_property
    def _held_out(self) -> set[str]:
        return hold_out([row.group for row in self._rows[0]], 0 if self.eval_path else self.holdout_share)

    def _read(self, records: Sequence[Record], path: Path) -> tuple[list[Row], Counter[str]]:
        """Turn records into rows and check their images; returns the rows and the reasons for dropping others."""
        rows: dict[str, Row] = {}
        bad: list[tuple[str, RowError]] = []
        sources: dict[Path, FileImage] = {}  # one object per file, so that its hash is computed once
        folders = {file: self._image_folder(file, path) for file in {record.file for record in records}}
        for record in records:
            try:
                row = read_row(record, folders[record.file], sources)
                if row.example.id in rows:
                    raise RowError("duplicate id", "an earlier row has the same id; give each row its own")
                rows[row.example.id] = row
            except RowError as error:
                bad.append((record.place(), error))
        if not bad or self.on_bad == "skip":  # decoding takes longest, so it waits until all else is well
            failed = images.check_images((row.image for row in rows.values()), self.check_images == "decode")
            unusable = [row for row in rows.values() if row.image in failed]
            bad += [(row.place, RowError("damaged image", str(failed[row.image]))) for row in unusable]
            rows = {name: row for name, row in rows.items() if row.image not in failed}
        dropped = Counter(error.reason for _, error in bad)
        if bad and self.on_bad == "error":
            more = f"and {len(bad) - 1} more bad rows; " if len(bad) > 1 else ""
            raise UserError(f"{_first(bad)}; {more}data.on_bad=skip drops and counts them")
        if not rows:
            reasons = f"can be used: {dict(dropped)}; the first: {_first(bad)}" if bad else "is in it"
            raise UserError(f"{path}: no row {reasons}")
        return list(rows.values()), dropped

    def _image_folder(self, file: Path, path: Path) -> Path:
        """The folder that the image names in `file` are relative to; `path` is what the user named."""
        if self.image_dir is not None:
            if not self.image_dir.is_dir():
                raise UserError(f"data.image_dir: no such folder: {self.image_dir}")
            return self.image_dir
        beside = (file.parent / "images", path.parent / "images")
        return next((folder for folder in beside if folder.is_dir()), file.parent)


def hold_out(groups: Sequence[str], share: float) -> set[str]:
    """Choose groups that together hold about `share` of the rows, by hash: the same on each machine, in any order.

    `groups` names the group of each row. With two or more groups and a share between 0 and 1, neither side is empty.
    """
    sizes = Counter(groups)
    if share == 1:
        return set(sizes)
    if share == 0 or len(sizes) < 2:
        return set()
    room = min(max(round(share * len(groups)), 1), len(groups) - 1)
    held = set()
    order = sorted(sizes, key=digest)
    for group in order:
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    return held or {min(order, key=sizes.__getitem__)}


def read_row(record: Record, image_dir: Path, sources: dict[Path, FileImage]) -> Row:
    """Check a record and turn it into an example; raises `RowError`."""
    value = record.value
    if not isinstance(value, dict):
        raise RowError("not an object", f"is {_kind(value)}, where an object with fields is expected")
    if record.without_split:
        raise RowError("missing field", "has no text field 'split', which other rows of the file have")
    texts = {field: _text(value, field) for field in REQUIRED}
    turns = parse_question(texts["question"])
    optional = [field for field in ("blind", "type", "entity_type") if value.get(field) is not None]
    extra = {field: _text(value, field) for field in optional}
    responses = {field: _response(field, text) for field, text in (texts | extra).items() if field in RESPONSES}
    if responses["chosen"] == responses["rejected"]:
        raise RowError("no preference", "'chosen' and 'rejected' are the same; remove the row")
    tags = {field: extra[field] for field in extra if field != "blind"}
    tags["turns"] = "single" if len(turns) == 1 else "multi"
    name = _identify(record)
    if record.keyword is not None:
        tags["keyword"] = record.keyword
        name = f"{record.keyword}/{name}"  # each file counts its ids from the start
    try:
        path = images.find_image(image_dir, texts["image"])
    except UserError as error:
        raise RowError("missing image", str(error)) from error
    image = sources.setdefault(path, FileImage(path))
    example = Example(id=name, turns=turns, image=image, responses=responses, tags=tags)
    return Row(record.place(), example, image, unquote(texts["image"]))


def parse_question(question: str) -> tuple[Turn, ...]:
    """Split `"USER: … ASSISTANT: … USER: <image>\\n… ASSISTANT:"` into turns; the last speaker label may be absent."""
    if (found := question.count(PLACEHOLDER)) != 1:
        raise RowError("not one image", f"'question' holds {PLACEHOLDER} {found} times, where once is expected")
    before, *parts = SPEAKER.split(question.strip())
    roles, texts = parts[::2], parts[1::2]
    if before or not roles:
        raise _malformed("does not begin with a speaker, 'USER:'")
    if len(roles) > 1 and roles[-1] == "ASSISTANT" and not texts[-1].strip():
        roles, texts = roles[:-1], texts[:-1]
    if any(role != ("USER", "ASSISTANT")[index % 2] for index, role in enumerate(roles)):
        raise _malformed("does not alternate between 'USER:' and 'ASSISTANT:', beginning with 'USER:'")
    if len(roles) % 2 == 0:
        raise _malformed("ends with words of the assistant, where a turn of the user is expected")
    return tuple(_turn(role, text) for role, text in zip(roles, texts, strict=True))


def _turn(role: str, text: str) -> Turn:
    image = PLACEHOLDER in text
    text = text.replace(f"{PLACEHOLDER}\n", "").replace(PLACEHOLDER, "").strip()
    if role == "ASSISTANT":
        if image:
            raise _malformed(f"has {PLACEHOLDER} in a turn of the assistant")
        if not text:
            raise _malformed("has an empty turn of the assistant")
        return Turn("assistant", text)
    if not text and not image:
        raise _malformed("has an empty turn of the user")
    return Turn("user", text, image)


def _malformed(what: str) -> RowError:
    return RowError("malformed question", f"'question' {what}")


def _response(field: str, text: str) -> str:
    """The response without its speaker label."""
    text = text.strip().removeprefix("ASSISTANT:").strip()
    if not text:
        raise RowError("empty response", f"'{field}' is empty")
    if PLACEHOLDER in text:
        # The tokenizer would make an image token of it, for which there is no image.
        raise RowError("image in response", f"'{field}' holds {PLACEHOLDER}; remove it from the response")
    return text


def _identify(record: Record) -> str:
    """The row's own id, or its number."""
    name = record.value.get("id")
    if name is None:
        return str(record.number)
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return _text(record.value, "id")


def _text(value: dict[str, Any], field: str) -> str:
    if field not in value:
        raise RowError("missing field", f"has no field '{field}'")
    text = value[field]
    if not isinstance(text, str):
        raise RowError("wrong type", f"'{field}' is {_kind(text)}, where text is expected")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start
        raise RowError("broken text", f"'{field}' holds half of a surrogate pair at {place}; repair it") from error
    return text


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
        raise UserError(f"{file}: holds {_kind(value)}, where a list of rows or {{keyword: file name}} is expected")
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


def _first(bad: Sequence[tuple[str, RowError]]) -> str:
    place, error = bad[0]
    return " ".join(f"{place}: {error}".splitlines())


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
