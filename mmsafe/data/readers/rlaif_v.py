"""RLAIF-V, pairs ranked by open models for trustworthiness (arXiv 2405.17220): parquet files with their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mmsafe.core.options import options
from mmsafe.data.conversation import preference, question, tags_of
from mmsafe.data.example import Example
from mmsafe.data.records import Record, numbered
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource


@options
class RLAIFV(RowSource):
    """Columns `image`, `question`, `chosen`, `rejected`, and `origin_dataset`, by which metrics are told.

    Rows with neither response are prompts.
    """

    get: ClassVar[str] = (
        "RLAIF-V (https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset) and set data.path to its folder"
    )
    expected: ClassVar[tuple[str, ...]] = ("image", "question", "chosen", "rejected")
    optional: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen", "rejected"),)
    example: ClassVar[Mapping[str, Any]] = {
        "question": "What is it?",
        "chosen": "A tree.",
        "rejected": "A house.",
        "image": "a.png",
        "origin_dataset": "COCO",
        "idx": "7",
    }

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """One example."""
        said = self.pair(record.value)
        responses = preference(said.get("chosen"), said.get("rejected"))
        image, group = find.find(record.value.get("image"))
        turns = question(said.get("question"), "question")
        yield ReadRow(
            Example(numbered(record), turns, image, responses, tags_of(record.value, "origin_dataset")), group
        )

    def pair(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where a row has `question`, `chosen` and `rejected`."""
        return value
