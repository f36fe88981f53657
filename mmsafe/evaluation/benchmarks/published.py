"""Base of the benchmarks that are published as a folder of questions and images."""

from __future__ import annotations

import base64
import csv
import json
import logging
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmsafe.core.errors import UserError
from mmsafe.core.options import InputPath, Share, options
from mmsafe.data.conversation import PLACEHOLDER
from mmsafe.data.data_source import DataSource
from mmsafe.data.decoding import EncodedImage
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.data.images import FileImage, failing, find_image
from mmsafe.data.records import kind, read_object, read_records, text_field
from mmsafe.data.row_error import RowError
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.judges.judge import CaseJudge, Judge, Verdict

log = logging.getLogger(__name__)
OPTION = "benchmark.path"
MAX_FIELD = 2**26
"""Characters of a field, which may be an image."""


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
        """The rows of a JSON object with their keys, or of a list, table or CSV with their positions."""
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


@options
class PublishedBenchmark(Benchmark):
    """Asks what it brings itself, whatever the data; has no pairs to compare."""

    is_test_set: ClassVar[bool] = True
    has_pairs: ClassVar[bool] = False
    get: ClassVar[str]
    """What to get, and where."""
    published: ClassVar[int | None] = None
    """Prompts that it has as published."""

    path: InputPath | None = None
    """Required: its folder, as published."""
    on_bad: Literal["error", "skip"] = "error"
    """A prompt whose image is missing or damaged ends the command, naming both, or is left out and counted."""

    def check_data(self, data: DataSource) -> None:
        """Any will do; the prompts are in `path`."""
        if self.path is None:
            raise ValueError(f"{OPTION} is not set: get {self.get}, and set {OPTION} to its folder")

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        return self._read[0]

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        return self._read[1]

    @abstractmethod
    def read(self, folder: Folder) -> Iterable[Example]:
        """Its prompts, in their order; raises `UserError` naming the place where something is not as published."""

    def expected(self) -> int | None:
        """Prompts that these options should find."""
        return self.published

    @cached_property
    def _read(self) -> tuple[list[Example], dict[str, int]]:
        """The prompts whose images can be decoded, and how many others there are: none may fail after training."""
        assert self.path is not None  # check_data has refused that
        folder = Folder(self.path, self.get)
        examples = list(self.read(folder))
        if not examples:
            raise UserError(f"{self.path}: holds no prompts of benchmark={self.name}; get {self.get}")
        if twice := [name for name, count in Counter(example.id for example in examples).items() if count > 1]:
            raise UserError(f"{self.path}: two prompts of benchmark={self.name} are called {twice[0]}")
        if self.expected() not in (None, len(examples)):
            log.warning("%s: %d prompts, where %s has %s", self.path, len(examples), self.name, self.expected())
        shown: list[tuple[str, Any]] = [(example.id, image) for example in examples for image in example.images]
        bad = {name: folder.bad_images[image] for name, image in shown if image in folder.bad_images}
        bad |= failing([example for example in examples if example.id not in bad], decode=True)
        if not bad:
            return examples, {}
        name, why = next(iter(bad.items()))
        first = f"{self.path}: prompt {name}: {why}"
        if self.on_bad == "error" or len(bad) == len(examples):
            more = f"and {len(bad) - 1} more prompts without image; " if len(bad) > 1 else ""
            raise UserError(f"{first}; {more}benchmark.on_bad=skip leaves out and counts such prompts")
        log.warning("%d of %d prompts are left out for their images; the first: %s", len(bad), len(examples), first)
        return [example for example in examples if example.id not in bad], {"missing or damaged image": len(bad)}


@options
class Rule(CaseJudge):
    """The rule of one benchmark; tells whether an answer is right, and neither of harm nor of refusals."""

    name: ClassVar[str] = "rule"
    evidence: ClassVar[str] = "exact"
    details: ClassVar[frozenset[str]] = frozenset({"right"})

    right: Callable[[Example, str], bool]
    max_unknown: Share = 1

    def __call__(self, example: Example, response: str) -> Verdict:
        return Verdict(unsafe=False, refused=False, details={"right": self.right(example, response)})


@options
class ExactBenchmark(PublishedBenchmark):
    """Judged by its own rule, whatever judge is chosen; a prompt that could not be asked is answered wrongly."""

    needs: ClassVar[frozenset[str]] = frozenset({"right"})

    @abstractmethod
    def right(self, example: Example, response: str) -> bool:
        """Whether a response is right by the tag `answer`, as the published code reads it."""

    def judge_for(self, judge: Judge) -> Judge:
        return Rule(right=self.right)

    def check_judge(self, judge: Judge) -> None:
        """None is asked."""

    def rights(self, judged: Sequence[Judged], tag: str) -> dict[str, list[bool]]:
        """Whether each answer is right, by the value of a tag."""
        found: dict[str, list[bool]] = defaultdict(list)
        for row in judged:
            found[row.example.tags[tag]].append(row.verdict.details["right"])
        return found

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        return {"right": verdict.details["right"]}


def prompt(name: str, text: str, *images: ImageSource, **tags: str) -> Example:
    """One question, with its images before it."""
    return Example(name, (Turn("user", text, (0,) * len(images)),), images, {}, tags)


def _holds(file: Path) -> Literal["object", "lines", ""]:
    """How a JSON file begins; what cannot be read is left to the reader's complaint."""
    with suppress(OSError), file.open("rb") as stream:
        head = stream.read(2**20).lstrip(b"\xef\xbb\xbf \t\r\n").replace(b"\r", b"")
        if file.suffix == ".json" and head[:1] == b"{":
            return "lines" if b"}\n{" in head else "object"
    return ""
