"""Preference sets in TRL's format, standard or conversational, with or without an image."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mmsafe.core.options import options
from mmsafe.data import conversation
from mmsafe.data.column_source import UNREAD
from mmsafe.data.example import Example, digest
from mmsafe.data.records import Record, checked_text, row_id
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource
from mmsafe.data.splits import listed
from mmsafe.objectives.base import GENERATED

Spoken = list[tuple[str, str]]
IMAGES = ("images", "image")


@options
class TRLPreference(RowSource):
    """Columns `prompt`, `chosen`, `rejected` and, where there are images, `images` or `image`, one or a list of them.

    A text as prompt is one turn of the user. In conversational sets the prompt may be left out: it is what both
    conversations begin with. Rows may bring `blind` responses, an `id` and `tags`, an object of texts; those with
    neither response are prompts. ms-swift's are read, too: `messages` with `rejected_response` or `rejected_messages`.
    """

    get = "a preference set in TRL's format and set data.path to its file or folder"
    expected = ("prompt", "chosen", "rejected")
    optional = (("prompt",), ("chosen", "rejected"))
    instead = (("messages", "rejected_response"), ("messages", "rejected_messages"))
    image_columns = IMAGES

    def recognised(self, row: Mapping[str, Any], file: Path) -> frozenset[str]:
        """Without `prompt`, conversations have to hold it."""
        if row.get("prompt") is None and isinstance(row.get("chosen"), str):
            raise RowError("missing field", "no prompt")
        return super().recognised(row, file)

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        value = record.value
        if value.get("prompt") is None and "messages" in value:
            value = _of_messages(value)
        if value.get("prompt") is not None and conversation.unanswered(value.get("chosen"), value.get("rejected")):
            yield trl_row(record, find, spoken_turns(value["prompt"], "prompt", role="user"), {})
            return
        prompt, chosen = value.get("prompt"), value.get("chosen")
        if prompt is None and not (isinstance(chosen, list) and len(chosen) > 1):
            conversation.refuse_template(chosen, "chosen")
            lacking = "has no 'prompt', and its responses are not conversations that hold one; try data=auto"
            raise RowError("missing field", lacking)
        chosen, rejected = spoken_turns(chosen, "chosen"), spoken_turns(value.get("rejected"), "rejected")
        prompt = chosen[:-1] if prompt is None else spoken_turns(prompt, "prompt", role="user")
        pair = conversation.preference(answer(chosen, prompt, "chosen"), answer(rejected, prompt, "rejected"))
        yield trl_row(record, find, prompt, pair)


def _of_messages(value: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift's row in TRL's form: its messages end with the chosen response, unless it is a prompt alone."""
    idle = {"rejected_images": value.get("images")}  # ms-swift wants the same images named again
    unread = ("rejected_images", "objects", "label")
    if odd := [name for name in unread if value.get(name) and value[name] != idle.get(name)]:
        raise RowError(UNREAD, f"has '{listed(odd)}', which is not read")
    messages, text, whole = (value.get(name) for name in ("messages", "rejected_response", "rejected_messages"))
    if conversation.unanswered(text, whole):
        return {**value, "prompt": messages}
    if not conversation.unanswered(text) and not conversation.unanswered(whole):
        raise RowError("two conversations", "has both 'rejected_response' and 'rejected_messages'; remove one")
    prompt = messages[:-1] if isinstance(messages, list) and conversation.unanswered(whole) else None
    return {**value, "prompt": prompt, "chosen": messages, "rejected": whole if conversation.unanswered(text) else text}


def trl_row(
    record: Record,
    find: RowImages,
    prompt: Spoken,
    responses: Mapping[str, str],
    field: str = "prompt",
    end: int | None = None,
    part: str = "",
) -> ReadRow:
    """The example of a prompt, or of its turns up to an `end`, with its responses; `part` ends its id.

    Responses that are generated are among the row's own fields.
    """
    value = record.value
    generated = {name: conversation.response(value[name], name) for name in GENERATED if value.get(name) is not None}
    images, groups = find.all(shown) if (shown := _shown(value)) else ((), (digest(prompt),))
    turns = conversation.with_images(conversation.as_turns(prompt, field), len(images), field)[:end]
    images = images[: sum(len(turn.images) for turn in turns)]
    # A text as it stands, for it is the row's own among all files of a set; numbers begin anew in each.
    name = checked_text(value["id"], "id") if isinstance(value.get("id"), str) else row_id(record)
    tags = conversation.turns_tag(turns)
    if isinstance(own_tags := value.get("tags"), dict):
        tags = conversation.tags_of(own_tags, *own_tags)
    return ReadRow(Example(name + part, turns, images, {**responses, **generated}, tags), groups)


def spoken_turns(value: object, field: str, role: str = "assistant") -> Spoken:
    """A text or a list of messages as (role, text), with a placeholder for an image."""
    if isinstance(value, str):
        return [(role, checked_text(value, field))]
    return conversation.messages(value, field, content=_content)


def answer(turns: Spoken, prompt: Spoken, field: str) -> str:
    """The one answer to the prompt, which may stand before it."""
    if turns[-1][0] != "assistant" or turns[:-1] not in ([], prompt):
        raise RowError("two conversations", f"'{field}' is not one answer to the prompt")
    return turns[-1][1]


def _shown(value: Mapping[str, Any]) -> list[Any]:
    """The images of a row; the same may stand in both columns."""
    cells = [cell for name in IMAGES if (cell := value.get(name)) is not None]
    lists = [images for cell in cells if (images := cell if isinstance(cell, list) else [cell])]
    return lists[0] if lists and lists[-1] == lists[0] else list(chain.from_iterable(lists))


def _content(value: object, field: str) -> str:
    """Text, or parts of type `text` and `image`; between several images, words stand as a chat template writes them."""
    if not isinstance(value, list):
        return checked_text(value, field)
    texts = []
    for part in value:
        what = part.get("type") if isinstance(part, dict) else None
        if what not in ("text", "image"):
            raise RowError("wrong type", f"'{field}' holds a part that is neither text nor image")
        if more := next((name for name in part if part[name] and name not in ("type", "text", "index")), None):
            raise RowError(UNREAD, f"'{field}' has '{listed([more])}' in a part, which is not read; remove it")
        texts.append(conversation.PLACEHOLDER if what == "image" else checked_text(part.get("text"), field))
    return ("" if texts.count(conversation.PLACEHOLDER) > 1 else "\n").join(texts)
