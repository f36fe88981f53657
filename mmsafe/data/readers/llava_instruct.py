"""LLaVA's visual instruction tuning data (arXiv 2304.08485): a JSON file and a folder of images; for SFT."""

from collections.abc import Iterator

from mmsafe.core.options import options
from mmsafe.data.conversation import messages
from mmsafe.data.readers.trl_sft import TRLSupervised
from mmsafe.data.records import Record
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow

SPEAKERS = {"human": "user", "gpt": "assistant"}


@options
class LLaVAInstruct(TRLSupervised):
    """Fields `id`, `image` (a name, a list of them, or none) and `conversations`, a list of `from` and `value`.

    Examples are called after the row's number, because ids occur more than once in the published mixture.
    """

    get = (
        "a file of LLaVA-Instruct (https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K), "
        "set data.path to it and data.image_dir to the folder that its image names begin in"
    )
    expected = ("conversations",)
    optional = ()
    instead = ()
    image_columns = ("image",)

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        spoken = messages(record.value.get("conversations"), "conversations", ("from", "value"))
        turns = [(SPEAKERS.get(speaker, speaker), text) for speaker, text in spoken]
        yield from self.learnt(record._replace(value={**record.value, "id": None}), find, turns, "conversations")
