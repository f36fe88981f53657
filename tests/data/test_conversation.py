"""Conversations as one text: written so, and read again as the same turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsafe.data.conversation import PLACEHOLDER, SPEAKER, format_conversation, parse_conversation
from mmsafe.data.example import Turn

ASKED = Turn("user", "What is it?")
WRITTEN = [
    ([ASKED], "USER: What is it? ASSISTANT:"),
    ([Turn("user", "What is it?", image=True)], "USER: <image>\nWhat is it? ASSISTANT:"),
    ([Turn("user", "", image=True)], "USER: <image>\n ASSISTANT:"),
    (
        [Turn("user", "Look.", image=True), Turn("assistant", "A tree.\n\nAn oak."), Turn("user", "How tall?")],
        "USER: <image>\nLook. ASSISTANT: A tree.\n\nAn oak. USER: How tall? ASSISTANT:",
    ),
    (
        [Turn("user", "Hi"), Turn("assistant", "Hello: what now?"), Turn("user", "What is it?", image=True)],
        "USER: Hi ASSISTANT: Hello: what now? USER: <image>\nWhat is it? ASSISTANT:",
    ),
]
words = st.text(min_size=1).map(str.strip).filter(lambda t: t and PLACEHOLDER not in t and not SPEAKER.search(f" {t}"))


@pytest.mark.parametrize(("turns", "text"), WRITTEN)
def test_it_is_written_as_in_the_published_set_and_read_again(turns: list[Turn], text: str) -> None:
    assert format_conversation(turns) == text
    assert parse_conversation(text, "question") == tuple(turns)


@given(st.lists(words, min_size=1).filter(lambda said: len(said) % 2 == 1), st.integers(0))
def test_whatever_is_said_is_read_again(said: list[str], shown: int) -> None:
    """Turns alternate from the user to the user; one of the user's has the image."""
    users = (len(said) + 1) // 2
    turns = [
        Turn("assistant", text) if number % 2 else Turn("user", text, image=number == 2 * (shown % users))
        for number, text in enumerate(said)
    ]
    assert parse_conversation(format_conversation(turns), "question") == tuple(turns)
