"""Preference sets in TRL's format, standard or conversational, with or without an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from mmsafe.data.conversation import PLACEHOLDER, as_turns, preference, response, with_image
from mmsafe.data.example import Example, Turn, digest
from mmsafe.data.records import Record, RowError, checked_text, kind, row_id
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import Row, RowSource
from mmsafe.data.source import GENERATED
from mmsafe.options import options

Said = list[tuple[str, str]]


@options
class TRLPreference(RowSource):
    """Columns `prompt`, `chosen`, `rejected` and, where there are images, `images` or `image`, one image a row.

    A text as prompt is one turn of the user. In conversational sets the prompt may be left out: it is what both
    conversations begin with. Rows may bring `blind` responses.
    """

    get: ClassVar[str] = "a preference set in TRL's format and set data.path to its file or folder"
    expected: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def rows(self, record: Record, find: RowImages) -> Iterator[Row]:
        """One example."""
        value = record.value
        chosen, rejected = _said(value.get("chosen"), "chosen"), _said(value.get("rejected"), "rejected")
        if value.get("prompt") is not None:
            prompt = _said(value["prompt"], "prompt", role="user")
        elif len(chosen) > 1:
            prompt = chosen[:-1]
        else:
            raise RowError("missing field", "has no 'prompt', and its responses are not conversations that hold one")
        for said, field in ((chosen, "chosen"), (rejected, "rejected")):
            if said[-1][0] != "assistant" or said[:-1] not in ([], prompt):
                raise RowError("two conversations", f"'{field}' is not one answer to the prompt")
        responses = preference(chosen[-1][1], rejected[-1][1])
        responses |= {name: response(value[name], name) for name in GENERATED if value.get(name) is not None}
        shown = _shown(value)
        image, group = find.find(shown[0]) if shown else (None, digest(prompt))
        turns = with_image(as_turns(prompt, "prompt"), bool(shown), "prompt")
        yield Row(Example(row_id(record), turns, image, responses, {"turns": _length(turns)}), group)


def _length(turns: tuple[Turn, ...]) -> str:
    return "single" if len(turns) == 1 else "multi"


def _shown(value: dict[str, Any]) -> list[Any]:
    """The images of a row, at most one."""
    shown = value["images"] if value.get("images") is not None else value.get("image")
    shown = shown if isinstance(shown, list) else [] if shown is None else [shown]
    if len(shown) > 1:
        raise RowError("not one image", f"has {len(shown)} images, where one is possible")
    return shown


def _said(value: object, field: str, role: str = "assistant") -> Said:
    """A text or a list of messages as (role, text), with a placeholder for an image."""
    if isinstance(value, str):
        return [(role, checked_text(value, field))]
    if not isinstance(value, list) or not value:
        raise RowError("wrong type", f"'{field}' is {kind(value)}, where text or a list of messages is expected")
    said = []
    for message in value:
        if not isinstance(message, dict):
            raise RowError("wrong type", f"'{field}' holds {kind(message)}, where a message is expected")
        who = checked_text(message.get("role"), f"{field}.role")
        if who == "system":
            raise RowError(
                "system message", f"'{field}' holds a system message, which LLaVA's prompts have no place for"
            )
        said.append((who, _content(message.get("content"), f"{field}.content")))
    return said


def _content(value: object, field: str) -> str:
    """Text, or parts of type `text` and `image`."""
    if not isinstance(value, list):
        return checked_text(value, field)
    texts = []
    for part in value:
        what = part.get("type") if isinstance(part, dict) else None
        if what not in ("text", "image"):
            raise RowError("wrong type", f"'{field}' holds a part that is neither text nor image")
        texts.append(PLACEHOLDER if what == "image" else checked_text(part.get("text"), field))
    return "\n".join(texts)
