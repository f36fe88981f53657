"""SPA-VL, safety preferences in three levels of harm classes (arXiv 2406.12030): parquet files with their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mmsafe.core.options import options
from mmsafe.data.conversation import preference, question, tags_of
from mmsafe.data.example import Example
from mmsafe.data.records import Record, numbered
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

CLASSES = ("class1", "class2", "class3")


@options
class SPAVL(RowSource):
    """Columns `image`, `question` and, in `train` and `validation`, `chosen` and `rejected`.

    `validation` and the test splits also have `class1` to `class3`, from domain to subcategory; by the set's card,
    `train` has none. Which classes there are is read from the rows. The test splits, `harm` and `help`, are prompts
    alone: they can be evaluated on, not trained on. JSON exports of the same columns name their images' files.
    """

    get: ClassVar[str] = "SPA-VL (https://huggingface.co/datasets/sqrti/SPA-VL) and set data.path to its folder"
    expected: ClassVar[tuple[str, ...]] = ("image", "question", "chosen", "rejected")
    optional: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    example: ClassVar[Mapping[str, Any]] = {
        "question": "What is it?",
        "chosen": "A tree.",
        "rejected": "A house.",
        "image": "a.png",
        "class1": "Harms",
        "class2": "Toxic",
        "class3": "Insult",
    }

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """One example."""
        value = record.value
        responses = preference(value.get("chosen"), value.get("rejected"))
        image, group = find.find(value.get("image"))
        turns = question(value.get("question"), "question")
        yield ReadRow(Example(numbered(record), turns, image, responses, tags_of(value, *CLASSES)), group)
