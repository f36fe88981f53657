"""The files of a benchmark that is published as a folder: rows of any form, and images."""

import base64
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from mmsafe.core.errors import UserError
from mmsafe.data.conversation import PLACEHOLDER, as_turns, messages
from mmsafe.data.decoding import EncodedImage
from mmsafe.data.example import Turn
from mmsafe.data.images import FileImage, find_image
from mmsafe.data.records import kind, read_object, read_records, text_field
from mmsafe.data.row_error import RowError

OPTION = "benchmark.path"
MAX_FIELD = 2**26
"""Characters of a field, which may be an image."""
MAX_SHEET = 2**28
"""Bytes of a workbook, unpacked."""


class Row:
    """An object of a published file that has the `expected` fields; every complaint names its place."""

    def __init__(self, value: Any, expected: Iterable[str], place: str) -> None:
        if not isinstance(value, Mapping):
            raise UserError(f"{place}: is {kind(value)}, where an object with fields is expected")
        expected = dict.fromkeys(expected)
        if expected.keys() - value.keys():
            present, wanted = (", ".join(map(str, names)) for names in (value, expected))
            raise UserError(f"{place}: has other fields than expected; found: {present}; expected: {wanted}")
        self.value, self.place = dict(value), place

    def __getitem__(self, field: str) -> Any:
        return self.value[field]

    def text(self, field: str) -> str:
        """The text of a field, stripped; raises `UserError` if there is none or a model could not be asked it."""
        try:
            text = text_field(self.value, field).strip()
        except RowError as error:
            raise UserError(f"{self.place}: {error}") from error
        if not text or PLACEHOLDER in text:
            what = f"holds {PLACEHOLDER}" if text else "is empty"
            raise UserError(f"{self.place}: '{field}' {what}, where text is expected")
        return text

    def list(self, field: str) -> list[Any]:
        """The list in a field."""
        if not isinstance(self.value[field], list):
            raise UserError(f"{self.place}: '{field}' is {kind(self.value[field])}, where a list is expected")
        return list(self.value[field])

    def texts(self, field: str) -> Sequence[str]:
        """The texts of a field that holds a list of them."""
        return [Row({field: text}, (), self.place).text(field) for text in self.list(field)]

    def turns(self, field: str) -> tuple[Turn, ...]:
        """The conversation in a field that holds a list of messages; a placeholder in it is no image, and left out."""
        try:
            spoken = messages(self.value[field], field)
            return as_turns([(role, text.replace(PLACEHOLDER, "")) for role, text in spoken], field)
        except RowError as error:
            raise UserError(f"{self.place}: {error}") from error


@dataclass(frozen=True)
class Base64Image(EncodedImage):
    """An image as text in a table."""

    name: str
    text: str = field(repr=False)

    def data(self) -> bytes:
        try:
            return base64.b64decode(self.text)
        except ValueError as error:
            raise self.error(f"is no image as base64 text ({error}); get the file again") from error


class Folder:
    """A published folder: its files, and its images, each of which is one object however often it is named."""

    def __init__(self, path: Path, get: str) -> None:
        self.path = path
        self.bad_images: dict[FileImage, UserError] = {}
        """Why an image cannot be shown, of those that are missing or stand elsewhere."""
        self._get = f"get {get}, and set {OPTION} to its folder"
        self._images: dict[Path, FileImage] = {}

    def file(self, name: str) -> Path:
        """A file of the folder, or of `data/` in it; raises `UserError` saying what to get."""
        for path in (self.path / name, self.path / "data" / name):
            if path.is_file():
                return path
        raise UserError(f"{self.path / name}: no such file; {self._get}")

    def rows(self, file: Path, fields: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """The rows of a JSON object with their keys, or of a list, table, CSV or workbook with their positions."""
        fields = tuple(fields)
        if (holds := _holds(file)) == "lines" or file.suffix in (".csv", ".tsv", ".txt"):
            csv.field_size_limit(MAX_FIELD)
            form: dict[str, Any] = {"fieldnames": fields, "quoting": csv.QUOTE_NONE} if file.suffix == ".txt" else {}
            form["delimiter"] = "," if file.suffix == ".csv" else "\t"
            try:
                with file.open(encoding="utf-8-sig", newline="") as lines:
                    values = [*map(json.loads, lines)] if holds == "lines" else [*csv.DictReader(lines, **form)]
            except (OSError, ValueError, RecursionError, csv.Error) as error:
                raise UserError(f"{file}: cannot be read ({error}); get it again") from error
            rows = [(str(number), value, f"{file}: row {number + 1}") for number, value in enumerate(values)]
        elif file.suffix == ".xlsx":
            rows = [(str(number), value, f"{file}: row {number + 2}") for number, value in enumerate(_sheet(file))]
        elif holds == "object":
            rows = [(key, value, f"{file}: row {key!r}") for key, value in read_object(file, OPTION).items()]
        else:
            rows = [(str(number), r.value, r.place()) for number, r in enumerate(read_records(file, OPTION))]
        if not rows:
            raise UserError(f"{file}: holds no prompts; {self._get}")
        yield from ((key, Row(value, fields, place)) for key, value, place in rows)

    def image(self, folder: Path, name: str) -> FileImage:
        """The image that the data call `name`, which stays in `folder`."""
        try:
            path = find_image(folder, name, self._get)
        except UserError as error:
            self.bad_images[image := FileImage(folder / name)] = error
            return image
        return self._images.setdefault(path, FileImage(path))


def _sheet(file: Path) -> list[dict[str, Any]]:
    """The rows of a workbook's first sheet that hold anything."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(f"{file}: is read by openpyxl; pip install openpyxl") from error
    try:
        with ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > MAX_SHEET:
                raise ValueError("it unpacks to too much")
        heads, *rows = load_workbook(file, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
    except (OSError, ValueError, LookupError, BadZipFile, SyntaxError) as error:  # damaged XML is the last
        raise UserError(f"{file}: cannot be read ({error}); get it again") from error
    return [dict(zip(map(str, heads), row, strict=False)) for row in rows if any(cell is not None for cell in row)]


def _holds(file: Path) -> Literal["object", "lines", ""]:
    """How a JSON file begins; what cannot be read is left to the reader's complaint."""
    with suppress(OSError), file.open("rb") as stream:
        head = stream.read(2**20).lstrip(b"\xef\xbb\xbf \t\r\n").replace(b"\r", b"")
        if file.suffix == ".json" and head[:1] == b"{":
            return "lines" if b"}\n{" in head else "object"
    return ""
