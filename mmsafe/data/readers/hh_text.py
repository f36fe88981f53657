"""HH-RLHF as it is, in words alone (arXiv 2204.05862): the control of what images add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mmsafe.core.options import options
from mmsafe.data.conversation import PLACEHOLDER, preference
from mmsafe.data.example import Example, digest
from mmsafe.data.hh_transcript import read_pair
from mmsafe.data.records import Record, numbered
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource


@options
class HHText(RowSource):
    """Fields `chosen` and `rejected`: transcripts that differ in their last turn. Examples have no image.

    Of one conversation the set has several rows, cut at different turns; what begins alike is held out together.
    """

    get: ClassVar[str] = (
        "HH-RLHF (https://huggingface.co/datasets/Anthropic/hh-rlhf) and set data.path to one of its folders, such as "
        "harmless-base"
    )
    expected: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    example: ClassVar[Mapping[str, Any]] = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What is it?\n\nAssistant: A tree.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What is it?\n\nAssistant: A house.",
    }
    image_columns: ClassVar[tuple[str, ...]] = ()

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """One example."""
        pair = read_pair(record.value)
        if any(PLACEHOLDER in turn.text for turn in pair.turns):
            raise RowError("not one image", f"holds {PLACEHOLDER}, where words alone are expected")
        tags = {"turns": "single" if len(pair.turns) == 1 else "multi"}
        example = Example(numbered(record), pair.turns, None, preference(pair.chosen, pair.rejected), tags)
        yield ReadRow(example, digest(pair.turns[0].text))
