"""Conversations as lists of messages, whatever a data set calls speakers and words."""

from __future__ import annotations

from collections.abc import Callable

from mmsafe.data.columns import IMAGE, MEANING, UNREAD, plain_name
from mmsafe.data.records import checked_text, kind
from mmsafe.data.row_error import RowError
from mmsafe.data.splits import listed


def messages(
    value: object,
    field: str,
    keys: tuple[str, str] = ("role", "content"),
    content: Callable[[object, str], str] = checked_text,
) -> list[tuple[str, str]]:
    """A list of messages as (role, text); `keys` say where a message has them, and `content` makes text of the other.

    Raises `RowError` for a message of the system, for which LLaVA's prompts have no place, and for one that holds more
    than words, such as calls of tools.
    """
    if not isinstance(value, list) or not value:
        raise RowError("wrong type", f"'{field}' is {kind(value)}, where a list of messages is expected")
    said = []
    for message in value:
        if not isinstance(message, dict):
            raise RowError("wrong type", f"'{field}' holds {kind(message)}, where a message is expected")
        role = checked_text(message.get(keys[0]), f"{field}.{keys[0]}")
        if role.lower() in ("system", "developer"):
            place = "which LLaVA's prompts have no place for: remove it, or say it in the first turn of the user"
            raise RowError("system message", f"'{field}' holds a system message, {place}")
        for name in filter(message.get, message):
            if MEANING.search(plain_name(name)) or IMAGE.search(plain_name(name)):
                raise RowError(UNREAD, f"'{field}' has '{listed([name])}' in a message, which is not read; remove it")
        said.append((role, content(message.get(keys[1]), f"{field}.{keys[1]}")))
    return said
