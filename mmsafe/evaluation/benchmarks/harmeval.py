"""HarmEval: the harmful half of SPA-VL's test set (arXiv 2406.12030)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.data.records import read_object, read_records
from mmsafe.data.splits import TABLES, files_of_split
from mmsafe.data.tables import StoredImage
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.published import (
    Folder,
    PublishedBenchmark,
    fields,
    harmful,
    prompt,
    text_of,
)
from mmsafe.evaluation.paper_row import PaperRow
from mmsafe.evaluation.statistics import Estimate, rate

CLASSES = ("class1", "class2", "class3")
COLUMNS = ("image", "question", *CLASSES)


@options
class HarmEval(PublishedBenchmark):
    """Harmful questions beside harmless or harmful images, in three levels of harm classes.

    usr: unsafe response rate.

    `path` is a folder with one JSON file `*harm*.json`, a list of rows or an object of rows, whose images are files in
    `images/` or beside it; or with tables of the split `harm`, found as `data.split=harm` finds them, in which the
    images are. The columns are those of `datasets.load_dataset("sqrti/SPA-VL", "test")["harm"]`; the names of its files
    on the hub could not be looked up, so that the layouts of the set and of its branch `refs/convert/parquet` are read.
    """

    name: ClassVar[str] = "harmeval"
    measures: ClassVar[tuple[Metric, ...]] = (
        Metric("usr", "unsafe response rate", "lower", by_tag=True, is_score=True, axis="safety"),
    )
    tags: ClassVar[tuple[str, ...]] = CLASSES
    paper_rows: ClassVar[tuple[PaperRow, ...]] = (PaperRow("USR", "eval/usr", 44.15, 28.30, 7.55, 100),)
    get: ClassVar[str] = "the split `harm` of SPA-VL's test set (https://huggingface.co/datasets/sqrti/SPA-VL)"
    published: ClassVar[int | None] = 265

    def read(self, folder: Folder) -> Iterator[Example]:
        """Rows are known by their position, which is their key in exports as one JSON object."""
        files = _files(folder)
        for number, (place, value) in enumerate(row for file in files for row in _rows(file)):
            row = fields(value, COLUMNS, place)
            image = row["image"]
            name = image.path if isinstance(image, StoredImage) else text_of(row, "image", place)
            if name is not None:
                images = files[0].parent / "images"
                image = folder.image(images if images.is_dir() else images.parent, name)
            tags = {name: text_of(row, name, place) for name in CLASSES}
            yield prompt(str(number), text_of(row, "question", place), image, **tags)

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """See the class."""
        return {"usr": rate([harmful(row) for row in judged])}


def _files(folder: Folder) -> list[Path]:
    exported = sorted(path.name for path in folder.path.glob("*harm*.json"))
    if exported or not any(file.suffix in TABLES for file in folder.path.rglob("*")):
        return [folder.file(*exported or ["harm.parquet"])]
    return files_of_split(folder.path, "benchmark.path", "harm", "benchmark.path")


def _rows(file: Path) -> list[tuple[str, Any]]:
    """Rows with their places."""
    if file.suffix == ".json" and file.read_bytes().lstrip()[:1] == b"{":
        return [(f"{file}: row {key!r}", row) for key, row in read_object(file, "benchmark.path").items()]
    return [(record.place(), record.value) for record in read_records(file, "benchmark.path")]
