"""The training file of mDPO (arXiv 2406.11839): pairs whose prompts are LLaVA's conversations in one text."""

from collections.abc import Iterator

from mmsafe.core.options import options
from mmsafe.data.conversation import parse_conversation, preference, with_images
from mmsafe.data.example import Example, Turn
from mmsafe.data.records import Record, numbered, text_field
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

VICUNA = "A chat between a curious user and an artificial intelligence assistant."
"""How LLaVA's own system message begins, which its chat template writes and other models have one of their own for."""


@options
class MDPO(RowSource):
    """Columns `img_path`, `prompt`, `chosen`, `rejected`; without the latter two, prompts.

    Whatever other system message stands before the first `USER:` is kept.
    """

    get = "mDPO's data (https://huggingface.co/datasets/fwnlp/mDPO-preference-data) and set data.path to its JSON file"
    expected = ("img_path", "prompt", "chosen", "rejected")
    transcripts = ("prompt",)
    image_columns = ("img_path",)

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        value = record.value
        system, speaker, rest = text_field(value, "prompt").partition("USER:")
        turns = parse_conversation(speaker + rest, "prompt")
        if system.strip() and not system.startswith(VICUNA):
            turns = (Turn("system", system.strip()), *turns)
        images, groups = find.all(value.get("image", value.get("img_path")))
        turns = with_images(turns, len(images), "prompt")
        responses = preference(value.get("chosen"), value.get("rejected"))
        yield ReadRow(Example(numbered(record), turns, images, responses), groups)
