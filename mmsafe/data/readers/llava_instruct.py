"""LLaVA's visual instruction tuning data (arXiv 2304.08485): a JSON file and a folder of images; for SFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from mmsafe.core.options import options
from mmsafe.data.conversation import as_turns, messages, response, with_images
from mmsafe.data.example import Example, digest
from mmsafe.data.records import Record, numbered
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

SPEAKERS = {"human": "user", "gpt": "assistant"}


@options
class LLaVAInstruct(RowSource):
    """Fields `id`, `image` (a name, a list of them, or none) and `conversations`, a list of `from` and `value`.

    Examples are called after the row's number, because ids occur more than once in the published mixture.
    """

    get: ClassVar[str] = (
        "a file of LLaVA-Instruct (https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K), "
        "set data.path to it and data.image_dir to the folder that its image names begin in"
    )
    trained_on: ClassVar[frozenset[str]] = frozenset({"chosen"})
    expected: ClassVar[tuple[str, ...]] = ("conversations",)
    answers: Literal["all", "last"] = "all"
    """Which answers of a conversation are learnt; each makes an example, with all that was said before."""

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """An example of every answer; what is answered before the image is shown is answered without it."""
        spoken = messages(record.value.get("conversations"), "conversations", ("from", "value"))
        said = [(SPEAKERS.get(speaker, speaker), text) for speaker, text in spoken]
        if said[-1][0] != "assistant":
            raise RowError("malformed conversations", "'conversations' does not end with an answer")
        first = next(number for number, (role, _) in enumerate(said) if role != "system")
        images, groups = find.all(shown) if (shown := record.value.get("image")) else ((), (digest(said[first]),))
        turns = with_images(as_turns(said[:-1], "conversations"), len(images), "conversations")
        for end in range(len(said) - 1 if self.answers == "last" else first + 1, len(said), 2):
            places = sum(len(turn.images) for turn in turns[:end])
            name = numbered(record) if self.answers == "last" else f"{numbered(record)}/{(end - first) // 2 + 1}"
            answer = {"chosen": response(said[end][1], "conversations")}
            yield ReadRow(Example(name, turns[:end], images[:places], answer), groups)
