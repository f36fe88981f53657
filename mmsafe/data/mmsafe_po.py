"""MMSafe-PO, multimodal preference pairs made from HH-RLHF (arXiv 2503.14189): a JSON file and a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from mmsafe.data import images
from mmsafe.data.conversation import PLACEHOLDER, parse_conversation, parse_question
from mmsafe.data.example import Example, digest
from mmsafe.data.images import FileImage
from mmsafe.data.records import REQUIRED, Record, RowError, kind, read_records, row_id, text_field
from mmsafe.data.source import DataSource, Loaded
from mmsafe.errors import UserError
from mmsafe.options import Share, options

GENERATED = ("blind", "weakened")
"""Responses that a row may bring, and that are made where it does not."""
RESPONSES = ("chosen", "rejected", *GENERATED)
TAGS = ("type", "entity_type")


class Row(NamedTuple):
    """A row that could be read: its place for messages, its example, what keeps it on one side of a hold-out, and its
    conversation before an image took the place of words."""

    place: str
    example: Example
    image: FileImage
    group: str
    text_prompt: str | None = None


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

    def text_only(self, example: Example) -> Example | None:
        """The conversation of the row's `text_prompt`, from which the multimodal one was made."""
        row = self._by_id[example.id]
        if row.text_prompt is None:
            return None
        try:
            turns = parse_conversation(row.text_prompt, "text_prompt")
        except RowError as error:
            raise UserError(f"{row.place}: {error}") from error
        return replace(example, turns=turns, image=None, responses={})

    @cached_property
    def _by_id(self) -> dict[str, Row]:
        rows = [*self._rows[0], *(self._eval_rows[0] if self.eval_path else [])]
        return {row.example.id: row for row in rows}

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
            failed = self._failing({row.image for row in rows.values()})
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

    def _failing(self, sources: set[FileImage]) -> dict[FileImage, UserError]:
        from mmsafe.reporting.progress import progress

        with progress("checking images", len(sources)) as advance:
            return images.check_images(sources, self.check_images == "decode", lambda *_: advance(1))

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
        raise RowError("not an object", f"is {kind(value)}, where an object with fields is expected")
    if record.without_split:
        raise RowError("missing field", "has no text field 'split', which other rows of the file have")
    texts = {field: text_field(value, field) for field in REQUIRED}
    turns = parse_question(texts["question"])
    optional = [field for field in (*GENERATED, *TAGS, "text_prompt") if value.get(field) is not None]
    extra = {field: text_field(value, field) for field in optional}
    responses = {field: _response(field, text) for field, text in (texts | extra).items() if field in RESPONSES}
    if responses["chosen"] == responses["rejected"]:
        raise RowError("no preference", "'chosen' and 'rejected' are the same; remove the row")
    tags = {field: extra[field] for field in TAGS if field in extra}
    tags["turns"] = "single" if len(turns) == 1 else "multi"
    name = row_id(record)
    if record.keyword is not None:
        tags["keyword"] = record.keyword
        name = f"{record.keyword}/{name}"  # each file counts its ids from the start
    try:
        path = images.find_image(image_dir, texts["image"])
    except UserError as error:
        raise RowError("missing image", str(error)) from error
    image = sources.setdefault(path, FileImage(path))
    example = Example(id=name, turns=turns, image=image, responses=responses, tags=tags)
    return Row(record.place(), example, image, unquote(texts["image"]), extra.get("text_prompt"))


def _response(field: str, text: str) -> str:
    """The response without its speaker label."""
    text = text.strip().removeprefix("ASSISTANT:").strip()
    if not text:
        raise RowError("empty response", f"'{field}' is empty")
    if PLACEHOLDER in text:
        # The tokenizer would make an image token of it, for which there is no image.
        raise RowError("image in response", f"'{field}' holds {PLACEHOLDER}; remove it from the response")
    return text


def _first(bad: Sequence[tuple[str, RowError]]) -> str:
    place, error = bad[0]
    return " ".join(f"{place}: {error}".splitlines())
