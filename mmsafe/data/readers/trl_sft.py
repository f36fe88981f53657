"""Answers to learn from, in TRL's prompt-completion format, with or without an image; for SFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.data.conversation import response, unanswered
from mmsafe.data.readers.trl import IMAGES, answer, said, trl_row
from mmsafe.data.records import Record
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource


@options
class TRLSupervised(RowSource):
    """Columns `prompt` and `completion`, and beside them the same as with `data=trl`; without the latter, prompts."""

    get: ClassVar[str] = "a set in TRL's prompt-completion format and set data.path to its file or folder"
    trained_on: ClassVar[frozenset[str]] = frozenset({"chosen"})
    expected: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    optional: ClassVar[tuple[tuple[str, ...], ...]] = (("completion",),)
    image_columns: ClassVar[tuple[str, ...]] = IMAGES

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """One example; of TRL's unpaired preferences, what is labelled false is not to be learnt."""
        if record.value.get("label") is False:
            raise RowError("labelled false", "has a 'completion' that 'label' calls a bad one; remove the row")
        prompt = said(record.value.get("prompt"), "prompt", role="user")
        completion, responses = record.value.get("completion"), {}
        if not unanswered(completion):
            responses["chosen"] = response(answer(said(completion, "completion"), prompt, "completion"), "completion")
        yield trl_row(record, find, prompt, responses)
