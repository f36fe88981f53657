"""Over-long examples are clipped, dropped or refused by rule, and counted."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Lengths
from mmsafe.data.example import Example, Turn
from mmsafe.microworld.icons import IconImage
from mmsafe.models.family import family_of
from mmsafe.objectives.base import Objective, ScoredRow
from mmsafe.objectives.bootstrapped_po import BootstrappedPO
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.orpo import ORPO
from mmsafe.objectives.sft import SFT
from mmsafe.objectives.simpo import SimPO
from mmsafe.scoring import lengths
from mmsafe.scoring.collate import Item, Items, PaddedCollator
from mmsafe.scoring.lengths import equal_items, fitting, overlong

NAMES = ("chosen", "rejected")
GROUPS = ({name: ScoredRow(name) for name in NAMES},)


class Letters:
    """An encoder of one token per character; a prompt costs 2 more, an image 10, a response 1 (its end)."""

    pad_id = 0

    def __init__(self) -> None:
        self.calls = 0

    def places(self, images: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(tokens=10)] * len(images)

    def prompt_ids(self, example: Example) -> list[int]:
        self.calls += 1
        return [1] * (2 + sum(len(turn.text) for turn in example.turns) + 10 * len(example.images))

    def response_ids(self, text: str, *, cut: bool = False) -> list[int]:
        return [1] * (len(text) + 1)


def example(name: str, prompt: int, chosen: int, rejected: int = 0, images: int = 0) -> Example:
    pictures = (IconImage("knife", 1, "red"),) * images
    responses = {"chosen": "c" * chosen, "rejected": "r" * rejected}
    return Example(name, (Turn("user", "p" * prompt, (0,) * images),), pictures, responses)


SHORT = example("short", 10, 5)  # 12 + 6 = 18
EXACT = example("exact", 10, 17)  # 12 + 18 = 30
LONG = example("long", 10, 18)  # 31
LONG_REJECTED = example("long rejected", 10, 1, 18)  # 31
SEEN = example("seen", 10, 7, images=1)  # 22 + 8 = 30
SEEN_LONG = example("seen long", 10, 8, images=1)  # 31
HUGE_PROMPT = example("huge prompt", 28, 1)  # prompt 30: no room
ALMOST = example("almost", 27, 1)  # prompt 29: room for one token
ALL = [SHORT, EXACT, LONG, LONG_REJECTED, SEEN, SEEN_LONG, HUGE_PROMPT, ALMOST]


def rule(on_overlong: str, max_length: int | None = 30) -> Lengths:
    return Lengths(max_length=max_length, on_overlong=on_overlong)


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


@pytest.mark.parametrize(
    ("on_overlong", "examples", "names", "expected", "clipped", "dropped"),
    [
        ("clip", ALL, NAMES, [e for e in ALL if e is not HUGE_PROMPT], 4, 1),
        ("drop", ALL, NAMES, [SHORT, EXACT, SEEN], 0, 5),
        ("error", [SHORT, EXACT, SEEN], NAMES, [SHORT, EXACT, SEEN], 0, 0),
        ("drop", [LONG_REJECTED], ["chosen"], [LONG_REJECTED], 0, 0),  # only responses that the objective reads count
        ("clip", ALL, (), [e for e in ALL if e is not HUGE_PROMPT], 0, 1),  # prompts leave room; nothing is clipped
    ],
)
def test_the_rules(
    on_overlong: str, examples: list[Example], names: Any, expected: list[Example], clipped: int, dropped: int
):
    kept, report = fitting(examples, Letters(), names, rule(on_overlong))
    assert ids(kept) == ids(expected)
    assert report == {"clipped": clipped, "dropped": dropped, "equal": 0}


class Words:
    """An encoder of one token per word, its number; every prompt begins with 1, and an image is 576 tokens 0."""

    image_token = 0
    pad_id = -1
    family = family_of("llava")

    def places(self, images: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(tokens=576)] * len(images)

    def prompt(self, example: Example) -> tuple[list[int], list[Any]]:
        return self.prompt_ids(example), []

    def prompt_ids(self, example: Example) -> list[int]:
        text = [int(word) for turn in example.turns for word in turn.text.split()]
        return [1, *[0] * (576 * len(example.images)), *text]

    def response_ids(self, text: str, *, cut: bool = False) -> list[int]:
        return [int(word) for word in text.split()]


def words(count: int, first: int = 1) -> str:
    return " ".join(str(first + i) for i in range(count))


def pair(name: str, prompt: int, chosen: int, rejected: int) -> Example:
    """`prompt` tokens of text, beginning of sequence and all, beside an image."""
    turns = (Turn("user", words(prompt - 1), images=(0,)),)
    responses = {"chosen": words(chosen, 1000), "rejected": words(rejected, 5000)}
    return Example(name, turns, (IconImage("knife", 1, "red"),), responses)


PAPER = Lengths(max_length=768, on_overlong="clip_others")
"""768 tokens with the image's 576: 192 of text, which prompt and response share."""


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "kept"),
    [
        (100, 92, 92, 92),  # 192 both: fits
        (100, 80, 93, 92),  # rejected one over
        (100, 92, 500, 92),
        (191, 1, 2, 1),
        (100, 93, 50, None),  # chosen one over: dropped, though rejected fits
        (100, 93, 500, None),
        (192, 1, 1, None),  # no room for any response
        (150, 42, 42, 42),
        (150, 43, 42, None),
    ],
)
def test_clip_others_is_the_rule_of_the_paper_s_code(prompt: int, chosen: int, rejected: int, kept: int | None):
    fits = pair("fits", 2, 1, 1)
    found, report = fitting([fits, pair("this", prompt, chosen, rejected)], Words(), NAMES, PAPER)
    assert ids(found) == (["fits"] if kept is None else ["fits", "this"])
    assert report == {"clipped": int(kept not in (None, rejected)), "dropped": int(kept is None), "equal": 0}


def test_clip_others_leaves_these_tokens():
    """At 6 tokens: prompt 1 7 8, so 3 for a response; rejected and blind lose their end, chosen is whole."""
    texts = {"chosen": "21 22 23", "rejected": "31 32 33 34 35", "blind": "41 42 43 44"}
    example = Example("golden", (Turn("user", "7 8"),), (), texts)
    rule = Lengths(max_length=6, on_overlong="clip_others")
    (kept,), report = fitting([example], Words(), list(texts), rule)
    batch = PaddedCollator(Words(), ({name: ScoredRow(name) for name in texts},), 6)([Item(kept)])
    assert batch.input_ids.tolist() == [[1, 7, 8, 21, 22, 23], [1, 7, 8, 31, 32, 33], [1, 7, 8, 41, 42, 43]]
    assert batch.target_mask.tolist() == [[False] * 2 + [True] * 3] * 3
    assert report == {"clipped": 1, "dropped": 0, "equal": 0}


@pytest.mark.parametrize(
    ("objective", "chosen", "rejected", "blind", "equal", "items"),
    [
        (DPO(), "21 22 23 24", "21 22 23 25", "41", 1, []),
        (DPO(), "21 22 23", "21 22 24", "41", 0, [0]),
        (DPO(), "21 22", "21 22 23", "41", 0, [0]),  # shorter is different, too
        (SimPO(), "21 22 23 24", "21 22 23 25", "41", 1, []),
        (ORPO(), "21 22 23 24", "21 22 23 25", "41", 1, []),  # no preference, as in a row with equal responses
        (SFT(), "21 22 23 24", "21 22 23 25", "41", 0, [0]),
        (BPO(), "21 22 23 24", "21 22 23 25", "41", 0, [0]),  # the blind term tells something apart
        (BPO(), "21 22 23 24", "31", "21 22 23", 0, [0]),
        (BPO(), "21 22 23 24", "21 22 23 25", "21 22 23", 1, []),
        (BPO(mode="concat"), "21 22 23 24", "21 22 23 25", "41", 1, [1]),
        (BPO(mode="concat"), "21 22", "31", "21 22", 1, [0]),  # without any clipping
        (BPO(mode="concat"), "21 22 23 24", "21 22 23 25", "21 22 23", 2, []),
        (BootstrappedPO(), "21 22 23 24", "31", "21 22 23", 1, []),
        (MDPO(), "21 22 23 24", "21 22 23 25", "41", 0, [0]),  # the image terms do
    ],
)
def test_what_is_the_same_tokens_is_left_out(
    objective: Objective, chosen: str, rejected: str, blind: str, equal: int, items: list[int]
):
    """At 6 tokens: prompt 1 7 8, so 3 for a response; `items` are the groups of the second example that are left."""
    texts = {"chosen": chosen, "rejected": rejected, "blind": blind, "weakened": blind}
    this = Example("this", (Turn("user", "7 8"),), (), texts)
    other = this.with_responses(chosen="11", rejected="12", blind="13", weakened="14")
    groups, limit = objective.groups, rule("clip", 6)
    kept, report = fitting([other, this], Words(), objective.responses, limit, groups)
    assert report["equal"] == equal
    assert kept == ([other, this] if items else [other])
    left = Items([other, this], len(groups), equal_items([other, this], groups, Words(), 6))
    assert [left[i] for i in range(len(left))] == [
        *(Item(other, group) for group in range(len(groups))),
        *(Item(this, group) for group in items),
    ]


def test_nothing_but_equal_pairs_is_an_error():
    same = Example("same", (Turn("user", "7 8"),), (), {"chosen": "21 22 23 24", "rejected": "21 22 23 25"})
    with pytest.raises(UserError, match=r"max_length=6: no example fits; of 1 the responses are equal when clipped"):
        fitting([same], Words(), NAMES, rule("clip", 6), GROUPS)


def test_what_an_evaluation_finds_too_long():
    """ALMOST has 29 tokens and room for one, HUGE_PROMPT has 30 and none."""
    assert overlong(ALL, Letters(), rule("clip")) == {ALL.index(HUGE_PROMPT)}
    fits = {ALL.index(e) for e in (SHORT, EXACT, SEEN)}
    assert overlong(ALL, Letters(), rule("clip"), NAMES) == set(range(len(ALL))) - fits
    with pytest.raises(UserError, match=r"example huge prompt: 1 tokens over lengths\.max_length=30"):
        overlong(ALL, Letters(), rule("error"))
    with pytest.raises(UserError, match=r"^example long: 1 tokens over lengths\.max_length=30$"):
        fitting(ALL, Letters(), NAMES, rule("error"))


def test_nothing_is_tokenised_without_a_limit_and_no_short_text_ever():
    encoder = Letters()
    assert fitting(ALL, encoder, NAMES, rule("error", None)) == (ALL, {"clipped": 0, "dropped": 0, "equal": 0})
    fitting([SHORT] * 5, encoder, NAMES, rule("drop", 1000))
    assert encoder.calls == 0


@pytest.mark.parametrize("on_overlong", ["clip", "clip_others", "drop"])
def test_nothing_left_is_an_error(on_overlong: str):
    with pytest.raises(UserError, match=r"lengths\.max_length=30: no example fits; raise it"):
        fitting([HUGE_PROMPT], Letters(), NAMES, rule(on_overlong))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.integers(0, 2)),
        min_size=1,
        max_size=4,
    ),
    st.integers(30, 400),
    st.sampled_from(["clip", "clip_others", "drop"]),
)
def test_what_is_kept_fits_when_batched_and_what_is_short_is_never_counted(
    llava: Any, texts: list[tuple[str, str, str, int]], max_length: int, on_overlong: str
):
    """With the real tokenizer: the shortcut for short texts must agree with counting tokens."""
    encoder = llava.encoder()
    examples = [
        Example(
            str(i),
            (Turn("user", prompt, (0,) * images),),
            (IconImage("knife", 1, "red"),) * images,
            {"chosen": chosen, "rejected": rejected},
        )
        for i, (prompt, chosen, rejected, images) in enumerate(texts)
    ]
    sizes = {
        e.id: len(encoder.prompt_ids(e)) + max(len(encoder.response_ids(text)) for text in e.responses.values())
        for e in examples
    }
    try:
        kept, report = fitting(examples, encoder, NAMES, rule(on_overlong, max_length))
    except UserError:
        kept, report = [], {"clipped": 0, "dropped": len(examples), "equal": 0}
    assert len(kept) + report["dropped"] == len(examples)
    assert {e.id for e in examples if sizes[e.id] <= max_length} <= set(ids(kept))
    assert report["clipped"] == sum(sizes[e.id] > max_length for e in kept)
    if kept:
        batch = PaddedCollator(encoder, GROUPS, max_length)([Item(e) for e in kept])
        assert batch.input_ids.shape[1] <= max_length
        assert batch.target_mask.any(1).all(), "every response keeps at least one token"


def test_slack_covers_a_chat_template(llava: Any):
    """What the template adds to a turn is within the allowance of the shortcut."""
    encoder = llava.encoder()
    empty = Example("x", (Turn("user", ""), Turn("assistant", ""), Turn("user", "")), (), {"chosen": ""})
    assert len(encoder.prompt_ids(empty)) <= len(empty.turns) * lengths.SLACK
