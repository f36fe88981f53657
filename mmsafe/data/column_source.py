"""Which columns of a row are read: one that means something is never left out in silence."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource
from mmsafe.data.decoding import no_name
from mmsafe.data.records import REQUIRED
from mmsafe.data.row_error import RowError
from mmsafe.data.splits import listed
from mmsafe.data.tables import StoredImage
from mmsafe.objectives.base import GENERATED

MEANING = re.compile(
    r"(?:^|_)(?:sys|system|systemprompt|developer|tool|function|video|audio|history|context|chat_template_kwargs)s?(?:_|$)"
)
"""Names of columns that change what was asked, with words apart by `_`."""
IMAGE = re.compile(r"image|img|picture|photo|pixel|screenshot|thumbnail|jpe?g|png|webp")
ANOTHER = re.compile(r"(?:image|img|picture|photo)s?_?\d+")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
HEARD = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".wav", ".mp3", ".flac", ".ogg")
WORDS = frozenset({"id", "prompt", "messages", "chosen", "rejected", "tags", *GENERATED})
"""Columns in which the name of an image is words."""
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
UNREAD = "column that is not read"
TEMPLATES = {
    "mmsafe_po": re.compile(r"\s*(?:A chat between\s[^\n]*?)?USER:.*(?:<image>|\sASSISTANT:)", re.DOTALL),
    "hh_text": re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL),
}
"""Whole conversations in one text, by the data set that reads them."""


@options
class ColumnSource(DataSource):
    """Base of the data sets whose rows have named columns."""

    expected: ClassVar[tuple[str, ...]] = REQUIRED
    """Fields that rows have, as published."""
    optional: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    """Those of them that may be missing together: the responses, where rows are prompts alone."""
    instead: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Other fields, any of which may stand in place of all that are expected."""
    marks: ClassVar[tuple[str, ...]] = ()
    """Fields that may be missing, but without which `data=auto` does not take rows for those of this set."""
    transcripts: ClassVar[tuple[str, ...]] = ()
    """Fields of a whole conversation in one text, by which `data=auto` tells this set from others."""
    tag_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that metrics are told by, where a row has them."""
    image_columns: ClassVar[tuple[str, ...]] = ("image",)
    """Those that an image is read from; none, where the set is of words alone."""

    image_column: str | None = None
    ignored_columns: list[str] = Field(default_factory=list)

    def __post_init__(self) -> None:
        if self.image_column is not None and not self.image_columns:
            raise UserError("data.image_column: this data set is of words alone; leave it null")

    def has_images(self) -> bool:
        return bool(self.image_columns)

    def refuse_other_fields(self, fields: Collection[str], path: Path) -> None:
        """Raise `UserError` if a field that is expected is not among all that rows have: this is another data set."""
        without = self.image_column is not None and self.image_column not in fields
        if fields and (missing := self._missing(fields) or (str(self.image_column),) * without):
            forms = " or ".join(", ".join(form) for form in (self.expected, *self.instead))
            problem = f"{path}: no row has {', '.join(missing)}; found: {listed(list(fields))}; expected: {forms}"
            raise UserError(f"{problem}; data=auto says which data set has these")

    def _missing(self, fields: Collection[str]) -> tuple[str, ...]:
        """Names that have to be among all `fields`, and are not."""
        read = self.image_columns if self.image_column is None else (self.image_column,)
        missing = tuple(name for name in self.expected if name not in (*fields, *self.image_columns))
        if missing in self.optional or any(set(form) <= set(fields) for form in self.instead):
            missing = ()
        shown = any(name in fields for name in read) or not set(self.image_columns).intersection(self.expected)
        return missing if shown else (*missing, read[0])

    def recognised(self, row: Mapping[str, Any], file: Path) -> frozenset[str]:
        """The columns that are read of a row of this set; raises `RowError` that says what it lacks to be one.

        `data=auto` asks each data set so, and takes the one that reads most.
        """
        if missing := self._missing(row) or tuple(name for name in self.marks if name not in row):
            raise RowError("missing field", f"no {', '.join(missing)}")
        for name in self.expected:
            text, awaited = row.get(name), name in self.transcripts
            if awaited != (isinstance(text, str) and any(form.match(text) for form in TEMPLATES.values())):
                raise RowError("another form", f"{name} is {'no' if awaited else 'a'} whole conversation in one text")
        known = {*self.expected, *self.image_columns, *self.tag_columns}.union(*self.instead)
        return frozenset(known.intersection(row))

    def columns(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its image in the published column; raises `RowError` for a column that would be left out."""
        row = dict(value)
        if self.image_column is not None:
            images = row.pop(self.image_column, None)
            row = {name: cell for name, cell in row.items() if name not in self.image_columns} | {"image": images}
        shown = any(row.get(name) for name in self.image_columns)
        read = {*(self.image_columns if self.image_column is None else [self.image_column]), *self.ignored_columns}
        for name, cell in value.items():
            if cell and name not in read and (why := self._lost(name, cell, shown)):
                column = listed([name])
                raise RowError(UNREAD, f"has '{column}', {why}; data.ignored_columns=[{column}] leaves it out")
        return row

    def _lost(self, name: str, cell: object, shown: bool) -> str:
        """Why a column must not be left out; empty if it may. `shown` says that the row has an image that is read."""
        plain = plain_name(name)
        words = name in WORDS or name in self.expected
        if MEANING.search(plain) or (not words and _names(cell, HEARD)):
            return "which is not read and may change what is asked: write its words into the prompt"
        if shown:
            advice = "beside an image that is read: write all of them into that column, as a list"
            return advice if ANOTHER.fullmatch(plain) else ""
        if not IMAGE.search(plain) and (words or not is_image(cell)):
            return ""
        if not self.image_columns:
            return "but is read as words alone: choose a data set with images"
        return f"but no image that is read: data.image_column={listed([name])} reads it"


def plain_name(name: str) -> str:
    """In small letters, with words apart by `_`."""
    return re.sub(r"\W+", "_", CAMEL.sub("_", name)).lower()


def is_image(cell: object, depth: int = 4) -> bool:
    """Whether it is an image, the name of a file of one, or holds such, within lists and objects so deep."""
    if isinstance(cell, str):
        return no_name(cell) is not None or _names(cell, ENDINGS)
    if isinstance(cell, dict) and cell.get("type") in ("image", "image_url"):
        return True
    if isinstance(cell, list | dict):
        parts = cell if isinstance(cell, list) else cell.values()
        return depth > 0 and any(is_image(part, depth - 1) for part in parts)
    return isinstance(cell, StoredImage)


def _names(cell: object, endings: tuple[str, ...]) -> bool:
    """Whether it is the name or address of a file that ends so."""
    if not isinstance(cell, str) or any(map(str.isspace, cell)):
        return False
    return re.split(r"[?#]", cell, maxsplit=1)[0].lower().endswith(endings)
