"""Base of the data sets that are files with a row for every example: rows checked, dropped, counted, held out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.options import DataPath, InputPath, Share, options
from mmsafe.data.column_source import ColumnSource
from mmsafe.data.conversation import preference, question, tags_of
from mmsafe.data.data_source import DUPLICATE, UNANSWERED, BadRow, Loaded, leave_out
from mmsafe.data.example import Example
from mmsafe.data.holdout import fields_of, hold_out, refuse_both, refuse_several
from mmsafe.data.hub import fetched
from mmsafe.data.images import failing
from mmsafe.data.records import METADATA, Record, kind, numbered, read_records
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImage, RowImages
from mmsafe.data.splits import files_of_split


class ReadRow(NamedTuple):
    """An example that could be read, and what it shares with others on its side of a hold-out."""

    example: Example
    groups: tuple[str, ...]
    """Names of its images or, without any, of its prompt."""
    text_prompt: object = None
    """The conversation before an image took the place of words, where the row tells it."""
    place: str = ""
    """For messages: file, row and id."""
    split: object = None
    """What the row says that it is of."""


@options
class RowSource(ColumnSource):
    """Reads rows, each of which makes an example of a question, images and a pair, or what a subclass makes of it."""

    get: ClassVar[str]
    """What to get, and where."""
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    """Folders beside a file in which images are looked for; `{file}` is its name without the ending."""

    path: DataPath | None = None
    image_dir: InputPath | None = None
    split: str | None = None
    eval_path: DataPath | None = None
    eval_split: str | None = None
    holdout_share: Share = 0.1
    on_bad: Literal["error", "skip"] = "error"
    check_images: Literal["header", "decode"] = "decode"
    """How images are checked when the rows are read: `decode` finds truncated files, `header` is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is None:
            raise UserError(f"data.path is not set: get {self.get}")
        if self.eval_path is not None and self.eval_path.resolve() == self.path.resolve() and self.eval_split is None:
            raise UserError("data.eval_path is the same file as data.path: leave it null to hold out a share")
        if self.eval_path is None and self.eval_split is not None and self.eval_split == self.split:
            raise UserError("data.eval_split is the same as data.split: leave it null to hold out a share")

    def rows(self, record: Record, find: RowImages) -> Iterable[ReadRow]:
        """The examples of a record, whose value is an object; raises `RowError` if one cannot be used."""
        value = self.single(record.value)
        responses = preference(value.get("chosen"), value.get("rejected"))
        images, groups = find.all(value.get("image"))
        turns = question(value.get("question"), "question", len(images))
        yield ReadRow(Example(numbered(record), turns, images, responses, tags_of(value, *self.tag_columns)), groups)

    def single(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its parts under `question`, `image`, `chosen` and `rejected`."""
        return value

    def train(self) -> Loaded:
        """The rows of `path` that are not held out, and the count of everything dropped from `path`."""
        self.refuse_splits(self._rows[0])
        lacking = [row for row in self._rows[0] if self.lacks(row)]
        if lacking and (self.on_bad == "error" or not self._answered):
            others = ", or leave them out by data.on_bad=skip" if self._answered else ""
            problem = f"{len(lacking)} rows are prompts without responses; choose a split to train on{others}"
            raise UserError(f"{self.path}: {problem}; the first: {lacking[0].place}")
        kept = [row.example for row, held in zip(self._answered, self._held_out, strict=True) if not held]
        if not kept:
            raise UserError("data.holdout_share=1 leaves nothing to train on: lower it, or set data.eval_path")
        return Loaded(kept, [*self._rows[1], *(BadRow(row.place, UNANSWERED) for row in lacking)])

    def prompts(self) -> Loaded:
        """The rows of `train`; of a set of prompts alone, which has none, all rows."""
        return self.train() if self._answered else self.test()

    def holdout(self) -> Loaded:
        """What is evaluated on: other rows, or the held-out rows of `path`, whose dropped rows `train` counts."""
        if not self.evaluates_others:
            return Loaded([row.example for row, held in zip(self._answered, self._held_out, strict=True) if held])
        rows, dropped = self._eval_rows
        return Loaded([row.example for row in rows], dropped)

    def test(self) -> Loaded:
        """All rows of `path`."""
        rows, dropped = self._rows
        return Loaded([row.example for row in rows], dropped)

    def to_hold_out(self) -> str:
        """Nothing is held out where all rows are one group, whatever the share is."""
        if self.evaluates_others or self.holdout_share == 0:
            return super().to_hold_out()
        return "all rows share one image, or one prompt, so none can be held out: name other rows by data.eval_path"

    @property
    def evaluates_others(self) -> bool:
        """Whether other rows are evaluated on than a share of `path`."""
        return self.eval_path is not None or self.eval_split is not None

    def files(self) -> list[Path]:
        """Those of `path` and of what is evaluated on; a keyed file, but not the files that it names."""
        return [*super().files(), *self._files(), *(self._files(evaluated=True) if self.evaluates_others else [])]

    def _files(self, *, evaluated: bool = False) -> list[Path]:
        """The files that are trained on, or evaluated on."""
        path, option = self.evaluated if evaluated else (self.root, "data.path")
        split, split_option = (self.eval_split, "data.eval_split") if evaluated else (self.split, "data.split")
        return files_of_split(path, option, split, split_option) if path.is_dir() else [path]

    @property
    def root(self) -> Path:
        """Where the rows of `path` are: a file, or a folder of files."""
        return fetched(self.path or Path())  # __post_init__ has refused None

    @property
    def evaluated(self) -> tuple[Path, str]:
        """Where other rows that are evaluated on are, and the option that says so."""
        return (fetched(self.eval_path), "data.eval_path") if self.eval_path else (self.root, "data.path")

    def records(self, *, streamed: bool = False) -> Iterator[Record]:
        """The records of `path`, as `read_records` reads them."""
        return read_records(self.root, "data.path", self.split, streamed=streamed)

    def eval_records(self, *, streamed: bool = False) -> Iterator[Record]:
        """The records of what is evaluated on, where that is not a share of `path`."""
        path, option = self.evaluated
        trained = {file.resolve() for file in self._files()}
        if shared := next((file for file in self._files(evaluated=True) if file.resolve() in trained), None):
            refuse_both(shared, self.split, self.eval_split)
        return read_records(path, option, self.eval_split, split_option="data.eval_split", streamed=streamed)

    def refuse_splits(self, rows: Iterable[ReadRow]) -> None:
        """Raise `UserError` where rows to train on say that they are of several splits, and `split` chooses none."""
        if self.split is None and "split" not in self.ignored_columns:
            refuse_several((row.split for row in rows), self.path)

    def outcomes(self, records: Iterable[Record], path: Path) -> Iterator[tuple[Record, dict[str, ReadRow] | RowError]]:
        """Each record with its rows by id, or with why it cannot be used; their images are found, but not looked at.

        `path` is where the user said that the records are. An image that several rows have is one object.
        """
        known: dict[Path | str, RowImage] = {}
        finders: dict[Path, RowImages] = {}
        for record in records:
            if record.file not in finders:
                finders[record.file] = RowImages(self._image_folders(record.file, path), known)
            outcome: dict[str, ReadRow] | RowError
            try:
                outcome = self._rows_of(record, finders[record.file])
            except RowError as error:
                outcome = error
            yield record, outcome

    def _rows_of(self, record: Record, find: RowImages) -> dict[str, ReadRow]:
        """Rows by id."""
        if record.problem is not None:
            raise record.problem
        if not isinstance(record.value, dict):
            raise RowError("not an object", f"is {kind(record.value)}, where an object with fields is expected")
        read = record._replace(value=self.columns(record.value))
        rows = [row._replace(place=record.place(), split=record.value.get("split")) for row in self.rows(read, find)]
        by_id = {row.example.id: row for row in rows}
        if len(by_id) < len(rows):
            raise RowError("duplicate id", "makes two examples of the same id")
        return by_id

    @cached_property
    def _rows(self) -> tuple[list[ReadRow], list[BadRow]]:
        return self._read(list(self.records()), self.root)

    @cached_property
    def _eval_rows(self) -> tuple[list[ReadRow], list[BadRow]]:
        return self._read(list(self.eval_records()), self.evaluated[0])

    def lacks(self, row: ReadRow) -> bool:
        """Whether a row cannot be trained on, because it is a prompt without the responses of others."""
        return not self.brings() <= row.example.responses.keys()

    @cached_property
    def _answered(self) -> list[ReadRow]:
        """The rows of `path` that can be trained on or held out of that."""
        return [row for row in self._rows[0] if not self.lacks(row)]

    @cached_property
    def _held_out(self) -> list[bool]:
        return hold_out([row.groups for row in self._answered], 0 if self.evaluates_others else self.holdout_share)

    def _read(self, records: Sequence[Record], path: Path) -> tuple[list[ReadRow], list[BadRow]]:
        """Turn records into rows and check their images; returns the rows, and those that were dropped."""
        self.refuse_other_fields(dict.fromkeys(field for record in records for field in fields_of(record)), path)
        rows: dict[str, ReadRow] = {}
        bad: list[tuple[str, RowError]] = []
        for record, outcome in self.outcomes(records, path):
            if isinstance(outcome, RowError):
                bad.append((record.place(), outcome))
            elif any(name in rows for name in outcome):
                bad.append((record.place(), DUPLICATE))
            else:
                rows |= outcome
        if not bad or self.on_bad == "skip":  # decoding takes longest, so it waits until all else is well
            failed = failing((row.example for row in rows.values()), self.check_images == "decode")
            bad += {rows[name].place: RowError("damaged image", str(error)) for name, error in failed.items()}.items()
            rows = {name: row for name, row in rows.items() if name not in failed}
        lost = leave_out(path, bad, len(rows), skip=self.on_bad == "skip")
        examples = self.categorised([row.example for row in rows.values()])
        kept = [row._replace(example=example) for row, example in zip(rows.values(), examples, strict=True)]
        return kept, lost

    def located(self) -> dict[str, str]:
        """The options that say where rows and images are, as what they mean on this machine."""
        images = self._image_folders(self.root if self.root.is_file() else self.root / "rows", self.root)[0]
        named = {"path": self.path, "eval_path": self.eval_path, "image_dir": images}
        return {option: str(place.resolve()) for option, place in named.items() if place is not None}

    def _image_folders(self, file: Path, path: Path) -> list[Path]:
        """Where the images named in `file` are looked for, in this order; `path` is what the user named."""
        if self.image_dir is not None:
            if not self.image_dir.is_dir():
                raise UserError(f"data.image_dir: no such folder: {self.image_dir}")
            return [self.image_dir]
        folders = () if METADATA.match(file.name) else self.image_folders
        names = [name.format(file=file.name.split(".")[0]) for name in folders]
        parents = dict.fromkeys((file.parent, path.parent, file.parent.parent))
        return [*(folder for name in names for parent in parents if (folder := parent / name).is_dir()), file.parent]
