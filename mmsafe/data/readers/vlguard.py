"""VLGuard, safe answers to safe and unsafe requests (arXiv 2402.02207): JSON files and folders of images; for SFT."""

from collections.abc import Iterator

from mmsafe.core.options import options
from mmsafe.data.conversation import question, response, tags_of, unanswered
from mmsafe.data.example import Example
from mmsafe.data.records import Record, kind, numbered
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

REQUESTS = {"instruction": "unsafe image", "safe_instruction": "safe", "unsafe_instruction": "unsafe request"}
"""Name of the field with the request, and what is unsafe about it."""


@options
class VLGuard(RowSource):
    """Fields `id`, `image`, `safe`, `instr-resp`, and `harmful_category`, `harmful_subcategory` of what is unsafe.

    A row is an image with one or two requests, each of which makes an example: an unsafe image has an `instruction`, a
    safe one a `safe_instruction` and an `unsafe_instruction`. One without `response`, as the safe ones of the test set,
    is a prompt. Images are in the folder that is named like the split. Examples are called after the row's number,
    because the published training set has an id twice.
    """

    get = (
        "VLGuard (https://huggingface.co/datasets/ys-zong/VLGuard), unpack train.zip and test.zip, "
        "and set data.path to train.json"
    )
    trained_on = frozenset({"chosen"})
    expected = ("image", "instr-resp")
    image_folders = ("{file}", "images")

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        value = record.value
        requests = value.get("instr-resp")
        if not isinstance(requests, list) or not requests:
            raise RowError("wrong type", f"'instr-resp' is {kind(requests)}, where a list of requests is expected")
        images, groups = find.all(value.get("image"))
        tags = tags_of(value, "harmful_category", "harmful_subcategory")
        for pair in requests:
            field = next((name for name in REQUESTS if isinstance(pair, dict) and pair.get(name) is not None), None)
            if field is None:
                raise RowError("missing field", f"a request of 'instr-resp' has none of {', '.join(REQUESTS)}")
            turns = question(pair[field], field)
            answer = pair.get("response")
            responses = {} if unanswered(answer) else {"chosen": response(answer, "response")}
            name = numbered(record) if len(requests) == 1 else f"{numbered(record)}/{field}"
            yield ReadRow(Example(name, turns, images, responses, {**tags, "request": REQUESTS[field]}), groups)
