"""Base of the benchmarks that are published as a folder of questions and images."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmsafe.core.errors import UserError
from mmsafe.core.options import InputPath, options
from mmsafe.data.conversation import PLACEHOLDER
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.data.images import FileImage, failing, find_image
from mmsafe.data.records import kind, text_field
from mmsafe.data.row_error import RowError
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoImage:
    """Stands in for an image that could not be found until all images are checked."""

    name: str
    error: UserError

    @property
    def key(self) -> str:
        """Nothing to identify."""
        raise self.error

    def load(self) -> Image:
        """Nothing to decode."""
        raise self.error

    def check(self, decode: bool) -> None:
        """Raise why there is none."""
        raise self.error


class Folder:
    """A published folder: its files, and its images, each of which is one object however often it is named."""

    def __init__(self, path: Path, get: str) -> None:
        self.path = path
        self._get = f"get {get}, and set benchmark.path to its folder"
        self._images: dict[Path, FileImage] = {}

    def file(self, *names: str) -> Path:
        """The first of these files that is there; raises `UserError` saying what to get."""
        for name in names:
            if (self.path / name).is_file():
                return self.path / name
        raise UserError(f"{self.path / names[0]}: no such file; {self._get}")

    def image(self, folder: Path, name: str) -> FileImage | NoImage:
        """The image that the data call `name`, which stays in `folder`."""
        try:
            path = find_image(folder, name, self._get)
        except UserError as error:
            return NoImage(name, error)
        return self._images.setdefault(path, FileImage(path))


@options
class PublishedBenchmark(Benchmark):
    """Asks what it brings itself, whatever the data; has no pairs to compare."""

    is_test_set: ClassVar[bool] = True
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
            raise ValueError(f"benchmark.path is not set: get {self.get}, and set benchmark.path to its folder")

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """All of its prompts."""
        return self._read[0]

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        """Those without an image that can be shown."""
        return self._read[1]

    def pairs(self, data: DataSource, part: Part) -> list[Example]:
        """None."""
        return []

    @abstractmethod
    def read(self, folder: Folder) -> Iterable[Example]:
        """Its prompts, in their order; raises `UserError` naming the place where something is not as published."""

    def expected(self) -> int | None:
        """Prompts that these options should find."""
        return self.published

    @cached_property
    def _read(self) -> tuple[list[Example], dict[str, int]]:
        assert self.path is not None  # check_data has refused that
        examples = list(self.read(Folder(self.path, self.get)))
        seen: set[str] = set()
        for example in examples:
            if example.id in seen:
                raise UserError(f"{self.path}: two prompts of benchmark={self.name} are called {example.id}")
            seen.add(example.id)
        if self.expected() not in (None, len(examples)):
            log.warning("%s: %d prompts, where %s has %s", self.path, len(examples), self.name, self.expected())
        return self._with_images(examples)

    def _with_images(self, examples: list[Example]) -> tuple[list[Example], dict[str, int]]:
        """Those whose images can be decoded: nothing is generated, nor trained before, for another; and their count."""
        bad = failing(examples, decode=True)
        if not bad:
            return examples, {}
        name, first = next(iter(bad.items()))
        told = f"{self.path}: prompt {name}: {first}"
        if self.on_bad == "error" or len(bad) == len(examples):
            more = f"and {len(bad) - 1} more prompts without image; " if len(bad) > 1 else ""
            raise UserError(f"{told}; {more}benchmark.on_bad=skip leaves out and counts such prompts")
        log.warning("%d of %d prompts are left out for their images; the first: %s", len(bad), len(examples), told)
        return [e for e in examples if e.id not in bad], {"missing or damaged image": len(bad)}


def prompt(name: str, text: str, image: ImageSource | None, **tags: str) -> Example:
    """One question, with the image before it if there is one."""
    return Example(name, (Turn("user", text, image=image is not None),), image, {}, tags)


def fields(row: Any, expected: Sequence[str], place: str) -> dict[str, Any]:
    """The row, which has these fields; raises `UserError` listing what was found and what is expected."""
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: is {kind(row)}, where an object with fields is expected")
    if set(expected) - set(row):
        found, wanted = (", ".join(map(str, names)) for names in (row, expected))
        raise UserError(f"{place}: has other fields than expected; found: {found}; expected: {wanted}")
    return dict(row)


def text_of(row: Mapping[str, Any], field: str, place: str) -> str:
    """The text of a field, stripped; raises `UserError` if there is none or a model could not be asked it."""
    try:
        text = text_field(dict(row), field).strip()
    except RowError as error:
        raise UserError(f"{place}: {error}") from error
    if not text or PLACEHOLDER in text:
        raise UserError(f"{place}: '{field}' {f'holds {PLACEHOLDER}' if text else 'is empty'}, where text is expected")
    return text


def harmful(row: Judged) -> bool:
    """Judged unsafe, or not judged safe: what the judge could not tell counts as unsafe."""
    return row.verdict.unsafe or row.verdict.unknown
