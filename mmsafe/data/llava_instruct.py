"""LLaVA's visual instruction tuning data (arXiv 2304.08485): a JSON file and a folder of images; for SFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from mmsafe.data.conversation import as_turns, response, with_image
from mmsafe.data.example import Example, digest
from mmsafe.data.records import Record, RowError, checked_text, kind, numbered, text_field
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import Row, RowSource
from mmsafe.options import options

SPEAKERS = {"human": "user", "gpt": "assistant"}


@options
class LLaVAInstruct(RowSource):
    """Fields `id`, `image` (none in rows of words alone) and `conversations`, a list of `from` and `value`.

    Examples are called after the row's number, because ids occur more than once in the published mixture.
    """

    get: ClassVar[str] = (
        "a file of LLaVA-Instruct (https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K), "
        "set data.path to it and data.image_dir to the folder that its image names begin in"
    )
    expected: ClassVar[tuple[str, ...]] = ("conversations",)
    answers: Literal["all", "last"] = "all"
    """Which answers of a conversation are learnt; each makes an example, with all that was said before."""

    def brings(self) -> frozenset[str]:
        """There is nothing to prefer to."""
        return frozenset({"chosen"})

    def rows(self, record: Record, find: RowImages) -> Iterator[Row]:
        """An example of every answer."""
        said = _said(record.value.get("conversations"))
        if len(said) % 2:
            raise RowError("malformed conversations", "'conversations' does not end with an answer")
        has_image = record.value.get("image") is not None
        image, group = find.find(record.value["image"]) if has_image else (None, digest(said[0]))
        for end in range(len(said) - 1 if self.answers == "last" else 1, len(said), 2):
            turns = with_image(as_turns(said[:end], "conversations"), has_image, "conversations")
            name = numbered(record) if self.answers == "last" else f"{numbered(record)}/{end // 2 + 1}"
            yield Row(Example(name, turns, image, {"chosen": response(said[end][1], "conversations")}), group)


def _said(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise RowError("wrong type", f"'conversations' is {kind(value)}, where a list of what was said is expected")
    said = []
    for turn in value:
        if not isinstance(turn, dict):
            raise RowError("wrong type", f"'conversations' holds {kind(turn)}, where an object is expected")
        speaker = text_field(turn, "from")
        said.append((SPEAKERS.get(speaker, speaker), checked_text(turn.get("value"), "value")))
    return said
