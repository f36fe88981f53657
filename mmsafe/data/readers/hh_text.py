"""HH-RLHF as it is, in words alone (arXiv 2204.05862): the control of what images add.

A dialogue is one text, with a speaker before each turn.
"""

import re
from collections.abc import Iterator
from typing import Any

from mmsafe.core.options import options
from mmsafe.data.conversation import PLACEHOLDER, malformed, preference, turns_tag
from mmsafe.data.example import Example, Turn, digest
from mmsafe.data.records import Record, numbered, text_field
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ORDER = ("Human", "Assistant")


def read_pair(value: dict[str, Any]) -> tuple[tuple[Turn, ...], str, str]:
    """The conversation of the transcripts `chosen` and `rejected`, and how each ends it; raises `RowError`."""
    turns, chosen = _split(text_field(value, "chosen"), "chosen")
    others, rejected = _split(text_field(value, "rejected"), "rejected")
    if turns != others:
        raise RowError("two conversations", "'chosen' and 'rejected' differ before their last turn")
    return turns, chosen, rejected


def _split(transcript: str, field: str) -> tuple[tuple[Turn, ...], str]:
    before, *parts = SPEAKER.split(f"\n\n{transcript.strip()}")
    speakers, texts = parts[::2], [text.strip() for text in parts[1::2]]
    if before or not speakers or len(speakers) % 2:
        raise malformed(field, "does not begin with 'Human:' and end with a turn of 'Assistant:'")
    if any(speaker != ORDER[index % 2] for index, speaker in enumerate(speakers)):
        raise malformed(field, "does not alternate between 'Human:' and 'Assistant:'")
    if not texts[-1]:
        raise RowError("empty response", f"'{field}' ends with an empty turn")
    if not all(texts):
        raise malformed(field, "has an empty turn")
    turns = (Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts[:-1]))
    return tuple(turns), texts[-1]


@options
class HHText(RowSource):
    """Fields `chosen` and `rejected`: transcripts that differ in their last turn. Examples have no image.

    Of one conversation the set has several rows, cut at different turns; what begins alike is held out together.
    """

    get = (
        "HH-RLHF (https://huggingface.co/datasets/Anthropic/hh-rlhf) and set data.path to one of its folders, such as "
        "harmless-base"
    )
    expected = ("chosen", "rejected")
    transcripts = expected
    optional = ()
    image_columns = ()

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        turns, chosen, rejected = read_pair(record.value)
        if any(PLACEHOLDER in turn.text for turn in turns):
            raise RowError("number of images", f"holds {PLACEHOLDER}, where words alone are expected")
        example = Example(numbered(record), turns, (), preference(chosen, rejected), turns_tag(turns))
        yield ReadRow(example, (digest(turns[0].text),))
