"""Blind responses: made without the image, once, and never in place of a row's own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import mmsafe.generation
from mmsafe.blinding import with_blind_responses
from mmsafe.data.collate import Item, PaddedCollator
from mmsafe.data.example import Example
from mmsafe.data.microworld import MicroWorld
from mmsafe.generation import Prompt
from mmsafe.objectives.base import Row
from mmsafe.settings import Generation

SETTINGS = Generation(max_new_tokens=5, batch_size=4)
SIGHTED = dataclasses.replace(SETTINGS, image_view="real")


@pytest.fixture
def examples() -> list[Example]:
    made = MicroWorld(size=10).train().examples
    assert {example.tags["turns"] for example in made} == {"single", "multi"}
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Everything that the model is asked."""
    whole, prompts_asked = mmsafe.generation.generate, []

    def watched(llava: Any, prompts: Any, settings: Any) -> Iterator[Any]:
        prompts_asked.extend(prompts)
        yield from whole(llava, prompts, settings)

    monkeypatch.setattr(mmsafe.generation, "generate", watched)
    return prompts_asked


def test_every_example_gets_a_blind_response_and_keeps_the_rest(llava: Any, examples: list[Example]) -> None:
    made = with_blind_responses(llava, examples, SETTINGS)
    for before, after in zip(examples, made, strict=True):
        assert set(after.responses) == {"chosen", "rejected", "blind"}
        assert dataclasses.replace(after, responses=before.responses, cut=frozenset()) == before
    assert all("blind" not in example.responses for example in examples)


def test_a_response_that_was_cut_off_is_scored_without_an_end(llava: Any, examples: list[Example]) -> None:
    made = with_blind_responses(llava, examples, dataclasses.replace(SETTINGS, max_new_tokens=1))
    assert {example.cut for example in made} == {frozenset({"blind"})}
    own = with_blind_responses(llava, [example.with_responses(blind="It is red.") for example in examples], SETTINGS)
    assert {example.cut for example in own} == {frozenset()}
    collate = PaddedCollator(llava.encoder(), ({"blind": Row("blind")},))
    end = llava.processor.tokenizer.eos_token_id
    for examples_made, ended in ((made, False), (own, True)):
        batch = collate([Item(example) for example in examples_made])
        last = batch.attention_mask.sum(-1) - 1
        assert [bool(ids[i] == end) for ids, i in zip(batch.input_ids, last, strict=True)] == [ended] * len(batch)


def test_a_blind_prompt_holds_no_image_and_no_placeholder(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    with_blind_responses(llava, examples, SETTINGS)
    encoder = llava.encoder()
    placeholder = llava.processor.image_token
    assert len(asked) == len(examples)
    for example, prompt in zip(examples, asked, strict=True):
        assert prompt.example.image is None
        text = encoder.prompt_text(prompt.example)
        assert placeholder not in text
        assert llava.processor.image_token_id not in encoder.prompt_ids(prompt.example)
        assert text == encoder.prompt_text(example).replace(f"{placeholder}\n", "")
        assert [turn.text for turn in prompt.example.turns] == [turn.text for turn in example.turns]


def test_the_sighted_control_sees_the_image(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    sighted = with_blind_responses(llava, examples, SIGHTED)
    assert [prompt.example for prompt in asked] == examples
    blind = with_blind_responses(llava, examples, SETTINGS)
    assert len({prompt.key for prompt in asked}) == 2 * len(examples)
    assert [e.responses["blind"] for e in sighted] != [e.responses["blind"] for e in blind]


def test_a_prompt_without_image_is_the_same_for_both(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    text_only = [examples[0].blinded()]
    assert with_blind_responses(llava, text_only, SETTINGS) == with_blind_responses(llava, text_only, SIGHTED)
    assert len(asked) == 1


@pytest.mark.parametrize("own", ["I cannot see any picture.", ""])
def test_a_rows_own_blind_response_is_used_as_it_is(
    llava: Any, examples: list[Example], asked: list[Prompt], own: str
) -> None:
    examples[3] = examples[3].with_responses(blind=own)
    made = with_blind_responses(llava, examples, SETTINGS)
    assert made[3] == examples[3]
    assert len(asked) == len(examples) - 1
    assert examples[3].prompt_key() not in {prompt.example.prompt_key() for prompt in asked}


def test_nothing_is_asked_twice(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    first = with_blind_responses(llava, examples, SETTINGS)
    asked.clear()
    assert with_blind_responses(llava, examples, SETTINGS) == first
    assert with_blind_responses(llava, first, SETTINGS) == first
    assert asked == []


def test_the_same_text_beside_two_images_is_sampled_twice(llava: Any, examples: list[Example]) -> None:
    """Without the images the prompts are one and the same."""
    twin = dataclasses.replace(examples[0], id="twin", image=examples[1].image)
    first, second = with_blind_responses(llava, [examples[0], twin], SETTINGS)
    assert first.responses["blind"] != second.responses["blind"]
    greedy = dataclasses.replace(SETTINGS, temperature=0)
    first, second = with_blind_responses(llava, [examples[0], twin], greedy)
    assert first.responses["blind"] == second.responses["blind"]


def test_the_very_same_example_is_sampled_twice(llava: Any, examples: list[Example]) -> None:
    equal = dataclasses.replace(examples[0])
    expected = with_blind_responses(llava, [examples[0], equal], SETTINGS)
    assert with_blind_responses(llava, [examples[0], examples[0]], SETTINGS) == expected


def test_the_log_counts_what_was_made(llava: Any, examples: list[Example], caplog: pytest.LogCaptureFixture) -> None:
    examples[0] = examples[0].with_responses(blind="own")
    with caplog.at_level(logging.INFO):
        made = with_blind_responses(llava, examples, SETTINGS)
    assert "9 prompts, 0 in the cache, 9 to generate" in caplog.text
    assert "1 from the rows themselves" in caplog.text
    assert not any(example.responses["blind"] in caplog.text for example in made[1:] if example.responses["blind"])
