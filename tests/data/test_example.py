"""Examples: messages, blinding, and the keys that caches and run folders rely on."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsafe.data.example import Example, Turn, digest, fingerprint
from mmsafe.microworld.icons import IconImage

KNIFE, BREAD = IconImage("knife", 1, "red"), IconImage("bread", 1, "red")
TURNS = (Turn("user", "Hello"), Turn("assistant", "Hi"), Turn("user", "What is this?", images=(0,)))
EXAMPLE = Example("1", TURNS, (KNIFE,), {"chosen": "A knife.", "rejected": "Bread."}, {"thing": "knife"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_messages_have_typed_parts_with_the_image_first():
    assert EXAMPLE.messages() == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    ]


def test_blinding_removes_image_and_placeholder_and_nothing_else():
    blind = EXAMPLE.blinded()
    assert not blind.images
    assert not any(turn.images for turn in blind.turns)
    assert [(t.role, t.text) for t in blind.turns] == [(t.role, t.text) for t in TURNS]
    assert (blind.id, blind.responses, blind.tags) == (EXAMPLE.id, EXAMPLE.responses, EXAMPLE.tags)
    assert blind.blinded() == blind
    assert EXAMPLE.images == (KNIFE,), "the original is as it was"


def test_images_stand_between_words_in_their_order():
    turns = (Turn("user", "Is  or  larger?", (3, 7)), Turn("assistant", "The knife."), Turn("user", "", (0,)))
    example = dataclasses.replace(EXAMPLE, turns=turns, images=(KNIFE, BREAD, KNIFE))
    image = {"type": "image"}
    words = [{"type": "text", "text": text} for text in ("Is ", " or ", " larger?", "")]
    first, _, last = (message["content"] for message in example.messages())
    assert first == [words[0], image, words[1], image, words[2]]
    assert last == [image, words[3]]
    assert [parts for _, parts in example.contents()] == [
        ["Is ", KNIFE, " or ", BREAD, " larger?"],
        ["The knife."],
        [KNIFE, ""],
    ]
    swapped = dataclasses.replace(example, images=(BREAD, KNIFE, KNIFE))
    moved = dataclasses.replace(example, turns=(Turn("user", "Is  or  larger?", (3, 8)), *turns[1:]))
    assert len({one.prompt_key() for one in (example, swapped, moved)}) == 3


def test_prompt_key_ignores_what_a_model_is_not_shown():
    assert EXAMPLE.prompt_key() == dataclasses.replace(EXAMPLE, id="2", responses={}, tags={}).prompt_key()


@pytest.mark.parametrize(
    "change",
    [
        {"images": (BREAD,)},
        {"images": (IconImage("knife", 2, "red"),)},
        {"images": ()},
        {"turns": TURNS[2:]},
        {"turns": (*TURNS[:2], Turn("user", "What is this ?", images=(0,)))},
        {"turns": (*TURNS[:2], Turn("user", "What is this?"))},
        {"turns": (Turn("user", "Hello", images=(0,)), TURNS[1], Turn("user", "What is this?"))},
        {"turns": (Turn("assistant", "Hello"), *TURNS[1:])},
        {"turns": (Turn("user", "HelloHi"), Turn("assistant", ""), TURNS[2])},
    ],
    ids=str,
)
def test_prompt_key_depends_on_everything_a_model_is_shown(change: dict):
    assert dataclasses.replace(EXAMPLE, **change).prompt_key() != EXAMPLE.prompt_key()


def test_fingerprint_depends_on_ids_prompts_images_responses_and_order():
    other = dataclasses.replace(EXAMPLE, id="2")
    base = fingerprint([EXAMPLE, other])
    assert base == fingerprint([EXAMPLE, other])
    changed = [
        [other, EXAMPLE],
        [EXAMPLE],
        [EXAMPLE, other, other],
        [EXAMPLE, dataclasses.replace(other, id="3")],
        [EXAMPLE, dataclasses.replace(other, images=(BREAD,))],
        [EXAMPLE, other.with_responses(chosen="No.")],
        [EXAMPLE, other.with_responses(blind="?")],
    ]
    turned = dataclasses.replace(EXAMPLE, responses=dict(reversed(EXAMPLE.responses.items())))
    assert base == fingerprint([turned, other])
    assert base not in {fingerprint(examples) for examples in changed}


@given(json_values, json_values)
def test_digest_tells_values_apart(one: object, other: object):
    # 1 and True are equal in Python and different in JSON: compare what is written
    assert (digest(one) == digest(other)) == (repr(sort(one)) == repr(sort(other)))


def sort(value: object) -> object:
    """Dictionaries in order of their keys."""
    if isinstance(value, dict):
        return {key: sort(value[key]) for key in sorted(value)}
    return [sort(item) for item in value] if isinstance(value, list) else value


def test_digest_is_32_hexadecimal_digits_and_the_same_forever():
    assert digest("a") == "ac8d8342bbb2362d13f0a559a3621bb4"  # sha256 of `"a"`, quotes included
    # sha256 of `["a", {"b": 1, "\u00e9": null}]`, six characters for the accented letter
    assert digest(["a", {"é": None, "b": 1}]) == "51d0b7a7d190ebf3155f9aa8d5666509"
