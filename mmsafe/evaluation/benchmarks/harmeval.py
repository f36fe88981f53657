"""HarmEval: the harmful half of SPA-VL's test set (arXiv 2406.12030)."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.data.splits import TABLES, files_of_split
from mmsafe.data.tables import StoredImage
from mmsafe.evaluation.benchmark import PaperRow, Rates
from mmsafe.evaluation.benchmarks.published import PublishedBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Folder

CLASSES = ("class1", "class2", "class3")


@options
class HarmEval(PublishedBenchmark):
    """Harmful questions beside harmless or harmful images, in three levels of harm classes.

    usr: unsafe response rate.

    `path` is a folder with one JSON file `*harm*.json`, a list of rows or an object of rows, whose images are files in
    `images/` or beside it; or with tables of the split `harm`, found as `data.split=harm` finds them, in which the
    images are. The columns are those of `datasets.load_dataset("sqrti/SPA-VL", "test")["harm"]`; the names of its files
    on the hub could not be looked up, so that the layouts of the set and of its branch `refs/convert/parquet` are read.
    """

    name = "harmeval"
    measures = (Metric("usr", "unsafe response rate", "lower", by_tag=True, is_score=True, axis="safety"),)
    rates: ClassVar[Rates] = {"usr": lambda row: row.harmful}
    tags = CLASSES
    paper_rows = (PaperRow("USR", "eval/usr", 44.15, 28.30, 7.55, 100),)
    get = "the split `harm` of SPA-VL's test set (https://huggingface.co/datasets/sqrti/SPA-VL)"
    published = 265

    def read(self, folder: Folder) -> Iterator[Example]:
        """Rows are known by their position, which is their key in exports as one JSON object."""
        files = _files(folder)
        rows = (row for file in files for _, row in folder.rows(file, ("image", "question", *CLASSES)))
        for number, row in enumerate(rows):
            image = row["image"]
            name = image.path if isinstance(image, StoredImage) else row.text("image")
            if name is not None:
                images = files[0].parent / "images"
                image = folder.image(images if images.is_dir() else images.parent, name)
            yield prompt(str(number), row.text("question"), image, **{name: row.text(name) for name in CLASSES})


def _files(folder: Folder) -> list[Path]:
    exported = sorted(path.name for path in folder.path.glob("*harm*.json"))
    if exported or not any(file.suffix in TABLES for file in folder.path.rglob("*")):
        return [folder.file((exported or ["harm.parquet"])[0])]
    return files_of_split(folder.path, "benchmark.path", "harm", "benchmark.path")
