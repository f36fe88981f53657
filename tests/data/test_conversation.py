"""Conversations as one text: written so, and read again as the same turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsafe.data.conversation import PLACEHOLDER, SPEAKER, format_conversation, parse_conversation
from mmsafe.data.example import Turn

ASKED = Turn("user", "What is it?")
WRITTEN = [
    ([ASKED], "USER: What is it? ASSISTANT:"),
    ([Turn("user", "What is it?", images=(0,))], "USER: <image>\nWhat is it? ASSISTANT:"),
    ([Turn("user", "", images=(0,))], "USER: <image>\n ASSISTANT:"),
    (
        [Turn("user", "Look.", images=(0,)), Turn("assistant", "A tree.\n\nAn oak."), Turn("user", "How tall?")],
        "USER: <image>\nLook. ASSISTANT: A tree.\n\nAn oak. USER: How tall? ASSISTANT:",
    ),
    (
        [Turn("user", "Hi"), Turn("assistant", "Hello: what now?"), Turn("user", "What is it?", images=(0,))],
        "USER: Hi ASSISTANT: Hello: what now? USER: <image>\nWhat is it? ASSISTANT:",
    ),
]
words = st.text(min_size=1).map(str.strip).filter(lambda t: t and PLACEHOLDER not in t and not SPEAKER.search(f" {t}"))


@pytest.mark.parametrize(("turns", "text"), WRITTEN)
def test_it_is_written_as_in_the_published_set_and_read_again(turns: list[Turn], text: str) -> None:
    assert format_conversation(turns) == text
    assert parse_conversation(text, "question") == tuple(turns)


def user(text: str, places: list[int]) -> Turn:
    """One image alone stands first; at the end of a turn, white space would be lost."""
    images = sorted(place % (len(text) + 1) for place in places)
    return Turn("user", text, tuple(images) if len(images) != 1 else (0,))


users = st.builds(user, words, st.lists(st.integers(0), max_size=3))
answers = st.builds(Turn, st.just("assistant"), words)


@given(users, st.lists(st.tuples(answers, users)))
def test_whatever_is_said_is_read_again(first: Turn, others: list[tuple[Turn, Turn]]) -> None:
    """Turns alternate from the user to the user, who shows images before, between and behind words."""
    turns = [first, *(turn for pair in others for turn in pair)]
    assert parse_conversation(format_conversation(turns), "question") == tuple(turns)
