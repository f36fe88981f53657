"""Answers to learn from, in TRL's prompt-completion format, with or without an image; for SFT."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from mmsafe.core.options import options
from mmsafe.data.conversation import response, unanswered
from mmsafe.data.readers.trl import IMAGES, Spoken, answer, spoken_turns, trl_row
from mmsafe.data.records import Record
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource


@options
class TRLSupervised(RowSource):
    """Columns `prompt` and `completion`, or `messages`, and beside them the same as with `data=trl`.

    Rows without `completion`, or whose messages end with the user, are prompts.
    """

    get: ClassVar[str] = "a set of prompts and completions, or of messages, and set data.path to its file or folder"
    trained_on: ClassVar[frozenset[str]] = frozenset({"chosen"})
    expected: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    optional: ClassVar[tuple[tuple[str, ...], ...]] = (("completion",),)
    instead: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",),)
    image_columns: ClassVar[tuple[str, ...]] = IMAGES
    answers: Literal["all", "last"] = "all"

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """One example, or one of every answer; what an unpaired preference labels false is not to be learnt."""
        if record.value.get("label") is False:
            raise RowError("labelled false", "has a 'completion' that 'label' calls a bad one; remove the row")
        if "messages" in record.value:
            yield from self.learnt(record, find, spoken_turns(record.value["messages"], "messages"), "messages")
            return
        prompt = spoken_turns(record.value.get("prompt"), "prompt", role="user")
        completion, responses = record.value.get("completion"), {}
        if not unanswered(completion):
            spoken = spoken_turns(completion, "completion")
            responses["chosen"] = response(answer(spoken, prompt, "completion"), "completion")
        yield trl_row(record, find, prompt, responses)

    def learnt(self, record: Record, find: RowImages, spoken: Spoken, field: str) -> Iterator[ReadRow]:
        """An example of every answer in a conversation; what is answered before an image is answered without it."""
        if spoken[-1][0] != "assistant":
            yield trl_row(record, find, spoken, {}, field)
            return
        last = len(spoken) - 1
        ends = range(last if self.answers == "last" else min(last, 1 + (spoken[0][0] == "system")), len(spoken), 2)
        for number, end in enumerate(ends, 1):
            part = f"/{number}" if len(ends) > 1 else ""
            yield trl_row(record, find, spoken[:-1], {"chosen": response(spoken[end][1], field)}, field, end, part)
