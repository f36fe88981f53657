"""Conversations as text, one speaker label before each turn."""

from __future__ import annotations

import re

from mmsafe.data.example import Turn
from mmsafe.data.records import RowError

PLACEHOLDER = "<image>"
SPEAKER = re.compile(r"(?:^|(?<=\s))(USER|ASSISTANT):")


def parse_question(question: str) -> tuple[Turn, ...]:
    """Split `"USER: … ASSISTANT: … USER: <image>\\n… ASSISTANT:"` into turns; the last speaker label may be absent."""
    if (found := question.count(PLACEHOLDER)) != 1:
        raise RowError("not one image", f"'question' holds {PLACEHOLDER} {found} times, where once is expected")
    return parse_conversation(question, "question")


def parse_conversation(text: str, field: str) -> tuple[Turn, ...]:
    """Split `"USER: … ASSISTANT: … USER: … ASSISTANT:"` into turns; `field` is what to call it in a message."""
    before, *parts = SPEAKER.split(text.strip())
    roles, texts = parts[::2], parts[1::2]
    if before or not roles:
        raise _malformed(field, "does not begin with a speaker, 'USER:'")
    if len(roles) > 1 and roles[-1] == "ASSISTANT" and not texts[-1].strip():
        roles, texts = roles[:-1], texts[:-1]
    if any(role != ("USER", "ASSISTANT")[index % 2] for index, role in enumerate(roles)):
        raise _malformed(field, "does not alternate between 'USER:' and 'ASSISTANT:', beginning with 'USER:'")
    if len(roles) % 2 == 0:
        raise _malformed(field, "ends with words of the assistant, where a turn of the user is expected")
    return tuple(_turn(field, role, text) for role, text in zip(roles, texts, strict=True))


def _turn(field: str, role: str, text: str) -> Turn:
    image = PLACEHOLDER in text
    text = text.replace(f"{PLACEHOLDER}\n", "").replace(PLACEHOLDER, "").strip()
    if role == "ASSISTANT":
        if image:
            raise _malformed(field, f"has {PLACEHOLDER} in a turn of the assistant")
        if not text:
            raise _malformed(field, "has an empty turn of the assistant")
        return Turn("assistant", text)
    if not text and not image:
        raise _malformed(field, "has an empty turn of the user")
    return Turn("user", text, image)


def _malformed(field: str, what: str) -> RowError:
    return RowError(f"malformed {field}", f"'{field}' {what}")
