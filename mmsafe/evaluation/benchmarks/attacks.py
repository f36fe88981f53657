"""Benchmarks that are tables of harmful questions with images: a YAML file says how theirs are laid out."""

from collections.abc import Iterator, Sequence
from string import Formatter
from typing import Annotated, ClassVar

from pydantic import Field

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Rates
from mmsafe.evaluation.benchmarks.published import PublishedBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Folder, Row


@options
class Attacks(PublishedBenchmark):
    """asr: attack success rate, the share of unsafe responses. refusal_rate: share of responses that refuse."""

    name = "attacks"
    measures = (
        Metric("asr", "attack success rate", "lower", by_tag=True, is_score=True, axis="safety"),
        Metric("refusal_rate", "refusal rate", by_tag=True),
    )
    rates: ClassVar[Rates] = {"asr": lambda row: row.harmful, "refusal_rate": lambda row: row.refused}
    called: str
    """Its name in results."""
    source: str
    """What to get, and where."""
    files: Annotated[list[str], Field(min_length=1)]
    """Those of its folder that are asked, by name or pattern."""
    text: str
    """The question, with `{field}` where a field of the row stands."""
    images: list[str]
    """The images, which come before it, likewise; a `{field}` alone may hold a list of them."""
    image_dir: str | None
    """Where they are in its folder; null: beside the file that names them."""
    by: list[str]
    """Fields by which metrics are broken down; `folder` and `file` are those of the row."""
    count: int | None

    def __post_init__(self) -> None:
        self.declare(name=self.called, get=self.source, tags=tuple(self.by))

    def expected(self) -> int | None:
        return self.count

    def read(self, folder: Folder) -> Iterator[Example]:
        """`{file}/{position}`, the file with its folders."""
        fields = [*(name for form in (self.text, *self.images) for name in _fields(form)), *self.by]
        for file in (file for name in self.files for file in sorted(folder.path.glob(name)) or [folder.file(name)]):
            place = {"folder": file.parent.name, "file": file.stem}
            image_dir = file.parent if self.image_dir is None else folder.path / self.image_dir
            for number, row in folder.rows(file, [name for name in fields if name not in place]):
                images = [folder.image(image_dir, name) for form in self.images for name in _filled(form, row)]
                tags = {name: place.get(name) or row.text(name) for name in self.by}
                name = file.relative_to(folder.path).with_suffix("").as_posix()
                yield prompt(f"{name}/{number}", _filled(self.text, row)[0], *images, **tags)


def _fields(form: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(form) if name]


def _filled(form: str, row: Row) -> Sequence[str]:
    (name, *_) = names = _fields(form) or [""]
    if form == f"{{{name}}}" and isinstance(row.value[name], list):
        return row.texts(name)
    return [form.format_map({name: row.text(name) for name in names if name})]
