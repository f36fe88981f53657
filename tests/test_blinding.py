"""Responses that the reference makes for training: beside the right view, once, and never in place of a row's own."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from chat_server import ChatServer, Reply
from hypothesis import strategies as st
from launching import QUICK, launch

import mmsafe.generation.blinding
import mmsafe.generation.generate
import mmsafe.generation.matching
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation, Lengths
from mmsafe.data.corruption import Crop
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.third_responses import tells
from mmsafe.generation.blinding import Others, unmatched, with_all_responses, with_generated_responses
from mmsafe.generation.generate import Prompt, Response
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.tiny import TinyModel
from mmsafe.objectives.base import ScoredRow
from mmsafe.objectives.bpo import BPO
from mmsafe.scoring.collate import Item, PaddedCollator

SETTINGS = Generation(max_new_tokens=5, batch_size=4)
SIGHTED = dataclasses.replace(SETTINGS, image_view="real")
THRICE = dataclasses.replace(SETTINGS, num_return_sequences=3)
CROP = Crop(seed=1)


def blinded(llava: Any, examples: list[Example], settings: Generation) -> list[Example]:
    return with_generated_responses(llava, examples, {"chosen", "rejected", "blind"}, settings)


def weakened(llava: Any, examples: list[Example], settings: Generation) -> list[Example]:
    return with_generated_responses(llava, examples, {"chosen", "weakened"}, settings, CROP)


@pytest.fixture
def examples() -> list[Example]:
    made = MicroWorld(size=10).train().examples
    assert {example.tags["turns"] for example in made} == {"single", "multi"}
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """Everything that the model is asked."""
    whole, prompts_asked = mmsafe.generation.generate.generate, []

    def watched(llava: Any, prompts: Any, settings: Any) -> Iterator[Any]:
        prompts_asked.extend(prompts)
        yield from whole(llava, prompts, settings)

    monkeypatch.setattr(mmsafe.generation.generate, "generate", watched)
    return prompts_asked


def shown_for(examples: list[Example], asked: list[Prompt]) -> list[Example]:
    """What the model was shown, in the order of the examples."""
    place = {example.id: number for number, example in enumerate(examples)}
    return sorted((prompt.example for prompt in asked), key=lambda example: place[example.id])


# Blind responses


def test_an_objective_without_generated_responses_asks_nothing(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    assert with_generated_responses(llava, examples, {"chosen", "rejected"}, THRICE, CROP) == examples
    assert asked == []


def test_a_response_that_was_cut_off_is_scored_without_an_end(llava: Any, examples: list[Example]) -> None:
    made = blinded(llava, examples, dataclasses.replace(SETTINGS, max_new_tokens=1))
    assert {example.cut for example in made} == {frozenset({"blind"})}
    own = blinded(llava, [example.with_responses(blind="It is red.") for example in examples], SETTINGS)
    assert {example.cut for example in own} == {frozenset()}
    collate = PaddedCollator(llava.encoder(), ({"blind": ScoredRow("blind")},))
    end = llava.processor.tokenizer.eos_token_id
    for examples_made, ended in ((made, False), (own, True)):
        batch = collate([Item(example) for example in examples_made])
        last = batch.attention_mask.sum(-1) - 1
        assert [bool(ids[i] == end) for ids, i in zip(batch.input_ids, last, strict=True)] == [ended] * len(batch)


def test_a_blind_prompt_holds_no_image_and_no_placeholder(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    blinded(llava, examples, SETTINGS)
    encoder = llava.encoder()
    placeholder = llava.processor.image_token
    assert len(asked) == len(examples)
    for example, shown in zip(examples, shown_for(examples, asked), strict=True):
        assert not shown.images
        text = encoder.prompt_text(shown)
        assert placeholder not in text
        assert llava.processor.image_token_id not in encoder.prompt_ids(shown)
        assert text == encoder.prompt_text(example).replace(f"{placeholder}\n", "")
        assert [turn.text for turn in shown.turns] == [turn.text for turn in example.turns]


def test_a_prompt_without_image_is_the_same_for_all_views(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    text_only = [examples[0].blinded()]
    (blind,) = blinded(llava, text_only, SETTINGS)
    assert [blind] == blinded(llava, text_only, SIGHTED)
    (weak,) = weakened(llava, text_only, SETTINGS)
    assert weak.responses["weakened"] == blind.responses["blind"]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("own", "settings"), [("I cannot see any picture.", THRICE), ("", SETTINGS)], ids=["three", "empty"]
)
def test_a_rows_own_blind_response_is_used_as_it_is_and_once(
    llava: Any, examples: list[Example], asked: list[Prompt], own: str, settings: Generation
) -> None:
    examples[3] = examples[3].with_responses(blind=own)
    samples = settings.num_return_sequences
    made = blinded(llava, examples, settings)
    assert made[3 * samples] == examples[3]
    assert len(made) == len(asked) + 1 == samples * (len(examples) - 1) + 1
    assert examples[3].prompt_key() not in {prompt.example.prompt_key() for prompt in asked}


def test_nothing_is_asked_twice(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    first = blinded(llava, examples, SETTINGS)
    asked.clear()
    assert blinded(llava, examples, SETTINGS) == first
    assert blinded(llava, first, SETTINGS) == first
    assert asked == []


def test_the_same_text_beside_two_images_is_sampled_twice(llava: Any, examples: list[Example]) -> None:
    """Without the images the prompts are one and the same."""
    twin = dataclasses.replace(examples[0], id="twin", images=examples[1].images)
    first, second = blinded(llava, [examples[0], twin], SETTINGS)
    assert first.responses["blind"] != second.responses["blind"]
    greedy = dataclasses.replace(SETTINGS, temperature=0)
    first, second = blinded(llava, [examples[0], twin], greedy)
    assert first.responses["blind"] == second.responses["blind"]


def test_the_log_counts_what_was_made(llava: Any, examples: list[Example], caplog: pytest.LogCaptureFixture) -> None:
    examples[0] = examples[0].with_responses(blind="own")
    with caplog.at_level(logging.INFO):
        made = blinded(llava, examples, SETTINGS)
    assert "blind responses: 9 prompts, 0 in the cache, 9 to generate" in caplog.text
    assert "1 from the rows themselves" in caplog.text
    assert not any(example.responses["blind"] in caplog.text for example in made[1:] if example.responses["blind"])


# Responses beside a spoilt image


def test_a_weakened_response_is_made_beside_the_corrupted_image(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    made = weakened(llava, examples, SETTINGS)
    assert shown_for(examples, asked) == [CROP.corrupted(example) for example in examples]
    for before, after in zip(examples, made, strict=True):
        assert set(after.responses) == {"chosen", "rejected", "weakened"}
        assert after.images == before.images


@pytest.mark.parametrize("column", ["blind", "weakened"])
@pytest.mark.parametrize(
    ("view", "shown"),
    [("none", Example.blinded), ("real", lambda example: example), ("corrupted", CROP.corrupted)],
    ids=["none", "real", "corrupted"],
)
def test_image_view_overrides_what_the_reference_is_shown(
    llava: Any, examples: list[Example], asked: list[Prompt], column: str, view: Any, shown: Any
) -> None:
    settings = dataclasses.replace(SETTINGS, image_view=view)
    with_generated_responses(llava, examples[:4], {column}, settings, CROP)
    assert shown_for(examples, asked) == [shown(example) for example in examples[:4]]


def test_both_kinds_are_made_where_both_are_read(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    examples[1] = examples[1].with_responses(weakened="own")
    made = with_generated_responses(llava, examples, {"blind", "weakened"}, THRICE, CROP)
    assert len(made) == 3 * len(examples)
    assert len(asked) == 3 * (2 * len(examples) - 1)
    assert all({"blind", "weakened"} <= set(example.responses) for example in made)
    assert [example.responses["weakened"] for example in made[3:6]] == ["own"] * 3
    assert len({example.responses["blind"] for example in made[3:6]}) == 3


# Responses beside another row's image, and to another row's prompt


@pytest.mark.parametrize("prompt", ["own", "other"])
def test_the_other_image_is_a_rows_own_never_and_the_same_for_one_seed(
    llava: Any, examples: list[Example], asked: list[Prompt], prompt: str
) -> None:
    twin = dataclasses.replace(examples[0], id="twin", images=examples[1].images)
    examples = [*examples, twin, dataclasses.replace(examples[2].blinded(), id="no image")]
    own = {example.id: {image.key for image in example.images} for example in examples}
    drawn = []
    for seed in (0, 0, 1):
        others = Others(examples, seed)
        shown = [others.images(e, others.prompt(e) if prompt == "other" else e) for e in examples]
        drawn.append([[image.key for image in s.images] for s in shown])
        for example, s in zip(examples, shown, strict=True):
            assert own[example.id].isdisjoint(image.key for image in s.images)
            assert {image.key for image in s.images} <= set.union(*own.values())
            assert len(s.images) == sum(len(turn.images) for turn in s.turns)
            assert (s.turns == example.turns) == (prompt == "own")
    assert drawn[0] == drawn[1] != drawn[2]
    settings = dataclasses.replace(SETTINGS, image_view="other", prompt=prompt, seed=1)
    made = blinded(llava, examples, settings)
    assert sorted(a.example.prompt_key() for a in asked) == sorted(s.prompt_key() for s in shown)
    assert [e.images for e in made] == [e.images for e in examples], "what is trained on stays"
    assert [e.turns for e in made] == [e.turns for e in examples]


def test_the_other_prompt_says_something_else_and_is_shown_in_the_view_asked_for(
    llava: Any, examples: list[Example], asked: list[Prompt]
) -> None:
    blinded(llava, examples, dataclasses.replace(SETTINGS, prompt="other"))
    assert len(asked) == len(examples)
    assert not any(prompt.example.images for prompt in asked)
    for example in examples:
        other = Others(examples, SETTINGS.seed).prompt(example)
        assert (other.turns, other.images) in [(e.turns, e.images) for e in examples]
        assert [turn.text for turn in other.turns] != [turn.text for turn in example.turns]


@pytest.mark.parametrize("option", ["image_view", "prompt"])
def test_rows_without_another_are_refused_in_one_line(llava: Any, examples: list[Example], option: str) -> None:
    same = [dataclasses.replace(examples[0], id=name) for name in "ab"]
    with pytest.raises(UserError, match=rf"^generation\.{option}=other: none of 2 rows has another for a$"):
        blinded(llava, same, dataclasses.replace(SETTINGS, **{option: "other"}))


# Only such responses as the judge takes


class Scripted:
    """A model whose n-th sample for a row says `n`, and that keeps account of what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds: list[int] = []
        monkeypatch.setattr(mmsafe.generation.matching, "sampled", self)

    def __call__(self, _: Any, draws: list[Prompt], *__: Any) -> list[Response]:
        self.rounds.append(len(draws))
        return [Response(str(draw.draw), finished=True) for draw in draws]


def matching(examples: list[Example], right: Any, match: Any = "right", **options: Any) -> list[Example]:
    settings = dataclasses.replace(SETTINGS, match=match, **options)
    return with_generated_responses(None, examples, {"blind"}, settings, tells=right)  # type: ignore[arg-type]


def test_what_is_not_taken_is_sampled_again_and_what_never_is_dropped_and_counted(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, place = Scripted(monkeypatch), {example.id: number for number, example in enumerate(examples[:4])}

    def right(responses: Any) -> list[bool]:
        assert all(example.images for example, _ in responses), "judged as a response to the row itself"
        return [int(said) >= place[example.id] for example, said in responses]

    with caplog.at_level(logging.INFO):
        made = matching(examples[:4], right, tries=3)
    assert {example.id: example.responses["blind"] for example in made} == {
        e.id: str(place[e.id]) for e in examples[:3]
    }
    assert model.rounds == [4, 3, 2]
    assert "1 of 4 examples have none for generation.match=right in 3 tries, and are dropped" in caplog.text
    assert unmatched(examples[:4], made) == 1


def test_of_several_samples_the_first_that_are_taken_are_kept(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    Scripted(monkeypatch)
    example = examples[0]

    def odd(responses: Any) -> list[bool]:
        return [int(said) % 2 == 1 for _, said in responses]

    assert [e.responses["blind"] for e in matching([example], odd, tries=4)] == ["1"]
    made = matching([example], odd, tries=4, num_return_sequences=3)
    assert [(e.id, e.responses["blind"]) for e in made] == [(example.id, "1"), (f"{example.id}#2", "3")]


def test_where_no_row_has_one_nothing_is_trained(examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted(monkeypatch)
    with pytest.raises(UserError, match=r"no example has one for generation\.match=wrong in 2 tries; raise"):
        matching(examples, lambda responses: [True] * len(responses), "wrong", tries=2)
    with pytest.raises(UserError, match="needs a judge"):
        matching(examples, None)


def test_a_filter_that_takes_all_changes_nothing(llava: Any, examples: list[Example], asked: list[Prompt]) -> None:
    once = blinded(llava, examples, SETTINGS)
    asked.clear()
    settings = dataclasses.replace(SETTINGS, match="wrong")
    rules = tells(Rules(), settings)
    made = with_generated_responses(llava, examples, {"chosen", "blind"}, settings, tells=rules)
    assert made == once, "a model with random weights is always wrong"
    assert asked == [], "the samples are found in the cache, whatever is taken of them"
    assert tells(Rules(), SETTINGS) is None


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ("right", [True, False, False]),
        ("wrong", [True, False, False]),
        ("as_real", [True, False, False]),
        ("grounded", [True, False, True]),
    ],
)
def test_the_exact_judge_tells_what_was_asked_for(match: Any, told: list[bool]) -> None:
    tags = {"kind": "directed", "harmful": "yes", "thing": "knife", "colour": "red", "person": "boss"}
    example = Example("a", (Turn("user", "?"),), (), {}, tags)
    said = ["Sorry, the knife could hurt your boss.", "Sure! Do it.", "Sure! Take the knife."]
    rules = tells(Rules(), dataclasses.replace(SETTINGS, match=match))
    assert rules is not None
    assert rules([(example, response) for response in said]) == told


# As right as another view's


class ByView:
    """A model whose n-th sample for a row, in a view, says whether it is right by `script[row][view][n]`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: dict[str, dict[str, str]]) -> None:
        self.script = script
        monkeypatch.setattr(mmsafe.generation.matching, "sampled", self)

    def __call__(self, _: Any, draws: list[Prompt], *__: Any) -> list[Response]:
        views = [(draw, self.script[draw.example.id]["real" if draw.example.images else "none"]) for draw in draws]
        return [Response(f"{said[draw.draw % len(said)]}{draw.draw}", finished=True) for draw, said in views]


def is_right(responses: Any) -> list[bool | None]:
    return [{"r": True, "w": False, "?": None}[said[0]] for _, said in responses]


SCRIPT = (("w", "rwr"), ("r", "wwr"), ("wr", "wr"), ("w", "r"), ("r", "?r"))
"""What five rows say without and beside the image, over and over: right, wrong, or what no judge can tell."""
VIEWS: Any = ("none", "real")
VIEWED = {
    "blind as right as sighted": ({"match": "as_real"}, {2: "w0", 1: None, 0: None, 3: None, 4: None}),
    "sighted as right as blind": (
        {"match": "as_none", "image_view": "real"},
        {0: "w1", 1: "r2", 2: "w0", 3: None, 4: "r1"},
    ),
    "sighted, of rows whose blind ones can be as right": (
        {"match": "as_real", "match_also": ("none",), "image_view": "real"},
        {0: None, 1: None, 2: "w0", 3: None, 4: None},
    ),
    "blind, of rows whose sighted ones can be as right": (
        {"match": "as_none", "match_also": ("real",)},
        {0: "w0", 1: "r0", 2: "w0", 3: None, 4: "r0"},
    ),
    "blind and wrong, of rows whose sighted ones can be wrong": (
        {"match": "wrong", "match_also": ("real",)},
        {0: "w0", 1: None, 2: "w0", 3: None, 4: None},
    ),
}


@pytest.mark.parametrize(("options", "expected"), VIEWED.values(), ids=VIEWED)
def test_arms_are_matched_in_how_right_their_responses_are(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: dict[int, str | None]
) -> None:
    rows = examples[: len(SCRIPT)]
    script = {e.id: dict(zip(("none", "real"), said, strict=True)) for e, said in zip(rows, SCRIPT, strict=True)}
    ByView(monkeypatch, script)
    made = {example.id: example.responses["blind"] for example in matching(rows, is_right, tries=3, **options)}
    assert made == {rows[place].id: said for place, said in expected.items() if said}


def test_matched_arms_have_the_same_rows(examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sampled: an arm and the one that it is matched to are left with the same rows, equally right."""
    draw = random.Random(5)
    rows = [dataclasses.replace(examples[0], id=str(place)) for place in range(40)]
    script = {e.id: {view: "".join(draw.choices("rw", k=4)) for view in ("none", "real")} for e in rows}
    ByView(monkeypatch, script)
    pairs = [
        {view: matching(rows, is_right, match, tries=3, image_view=view, match_also=("none", "real")) for view in VIEWS}
        for match in ("as_real", "as_none")
    ]
    for arms in pairs:
        right = [[(e.id, e.responses["blind"][0]) for e in arm] for arm in arms.values()]
        assert right[0] == right[1]
        assert 0 < len(right[0]) < len(rows)


# Many samples


def test_an_example_becomes_as_many_as_it_has_samples(llava: Any, examples: list[Example]) -> None:
    made = blinded(llava, examples, THRICE)
    assert [example.id for example in made[:3]] == [examples[0].id, f"{examples[0].id}#2", f"{examples[0].id}#3"]
    assert len({example.id for example in made}) == len(made) == 3 * len(examples)
    for number, before in enumerate(examples):
        copies = made[3 * number : 3 * number + 3]
        assert len({copy.responses["blind"] for copy in copies}) == 3
        for copy in copies:
            kept = {name: text for name, text in copy.responses.items() if name != "blind"}
            assert dataclasses.replace(copy, id=before.id, responses=kept, cut=frozenset()) == before


@pytest.mark.parametrize("make", [blinded, weakened])
def test_more_samples_keep_the_ones_that_there_are(
    llava: Any, examples: list[Example], asked: list[Prompt], make: Any
) -> None:
    examples.append(dataclasses.replace(examples[0], id="twin"))
    once = make(llava, examples, SETTINGS)
    asked.clear()
    thrice = make(llava, examples, THRICE)
    assert thrice[::3] == once
    assert len(asked) == len({prompt.key for prompt in asked}) == 2 * len(examples)
    asked.clear()
    assert make(llava, examples, SETTINGS) == once
    assert make(llava, examples, dataclasses.replace(THRICE, batch_size=7)) == thrice
    assert asked == []


def test_each_sample_is_marked_that_was_cut_off(
    llava: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(_: Any, prompts: list[Example], *__: Any) -> list[Response]:
        return [Response(str(number), finished=number % 3 == 0) for number in range(len(prompts))]

    monkeypatch.setattr(mmsafe.generation.matching, "responses", made)
    for example in blinded(llava, examples, THRICE):
        ended = int(example.responses["blind"]) % 3 == 0
        assert example.cut == (frozenset() if ended else {"blind"})


@hypothesis.given(st.lists(st.text("12#a", max_size=4), unique=True, min_size=1), st.integers(1, 12))
@hypothesis.example(["a", "a#2"], 2)
@hypothesis.example(["a", "a#", "a###2"], 2)
def test_ids_stay_distinct_whatever_they_hold(ids: list[str], samples: int) -> None:
    turns = (Turn("user", "?"),)
    examples = [Example(name, turns, (), {} if "a" in name else {"blind": "own"}) for name in ids]
    settings = Generation(num_return_sequences=samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mmsafe.generation.matching, "responses", lambda _, prompts, *__: [Response("x", True)] * len(prompts)
        )
        made = [example.id for example in with_generated_responses(None, examples, {"blind"}, settings)]  # type: ignore[arg-type]
    assert len(set(made)) == len(made)
    assert set(ids) <= set(made)


# The commands


def test_the_command_writes_a_row_for_each_sample(tmp_path: Path) -> None:
    words = ("model=random", "data.size=5", "generation.max_new_tokens=4")
    for folder, more in (("one", ()), ("three", ("generation.num_return_sequences=3",))):
        run = launch("blind", *words, *more, f"hydra.run.dir={tmp_path / folder}", cwd=tmp_path, cache=tmp_path)
        assert run.status == 0, run.err
    one, three = (
        [json.loads(line) for line in (tmp_path / folder / "blind.jsonl").read_text().splitlines()]
        for folder in ("one", "three")
    )
    assert three[::3] == one
    assert len({row["id"] for row in three}) == len(three) == 15
    assert "10/10" in run.err


def test_training_takes_every_sample(tmp_path: Path) -> None:
    words = (*QUICK, "objective=bootstrapped_po", "evaluate=false", "generation.num_return_sequences=2")
    run = launch("train", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, cache=tmp_path)
    assert run.status == 0, run.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["examples"] == 2 * 16


def test_both_commands_take_only_what_the_judge_takes(tmp_path: Path) -> None:
    words = (*QUICK, "generation.match=wrong", "generation.image_view=other", "generation.tries=2")
    run = launch("train", *words, "evaluate=false", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, cache=tmp_path)
    assert run.status == 0, run.err
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["lengths"]["unmatched"] == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["third/right"], metrics["third/chosen_worse"], metrics["third/right_n"]) == (0, 0, 16)
    words = ("model=random", "data.size=5", "generation.max_new_tokens=4", "generation.tries=2")
    for match, status in (("wrong", 0), ("right", 2)):
        out = f"hydra.run.dir={tmp_path / match}"
        ended = launch("blind", *words, f"generation.match={match}", out, cwd=tmp_path, cache=tmp_path)
        assert ended.status == status, ended.err
    assert "no example has one for generation.match=right in 2 tries; raise generation.tries" in ended.err
    assert json.loads((tmp_path / "wrong" / "run.json").read_text())["lengths"]["unmatched"] == 0
    assert len((tmp_path / "wrong" / "blind.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("generation.num_return_sequences=2", "generation.temperature=0"), "needs temperature > 0"),
        (("generation.image_view=corrupted",), "needs a corruption, which mmsafe.train has, not this command"),
        (("generation.match=as_corrupted",), "needs a corruption, which mmsafe.train has, not this command"),
        (("generation.match_also=[real]",), "needs match"),
        (("generation.match=wrong", "generation.temperature=0"), "needs temperature > 0"),
        (
            ("generation.match=wrong", "generation.num_return_sequences=3", "generation.tries=2"),
            "tries=2 cannot give num_return_sequences=3",
        ),
        (
            ("generation.match=wrong", "judge=keywords"),
            "judge=keywords cannot tell what generation.match=wrong needs: right",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_sampled_is_refused_at_once(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    run = launch("blind", "model=llava7b", *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, cache=tmp_path)
    assert run.status == 2
    assert reason in run.err
    assert len(run.err.splitlines()) <= 2


def test_nothing_is_generated_for_what_is_too_long_as_it_is(llava: Any, examples: list[Example], asked: list[Prompt]):
    """A prompt of 20,000 characters beside short ones: it goes before a batch holds it, and is counted."""
    long = dataclasses.replace(examples[0], id="long", turns=(Turn("user", "why " * 5000),), images=())
    rule = Lengths(max_length=500, on_overlong="clip")
    made, report = with_all_responses(llava, [long, *examples[:3]], BPO(), SETTINGS, CROP, rule)
    assert [example.id for example in made] == [example.id for example in examples[:3]]
    assert report == {"clipped": 0, "dropped": 1, "equal": 0}
    assert max(len(turn.text) for prompt in asked for turn in prompt.example.turns) < 1000


# Responses of a model that is served elsewhere


def served(server: ChatServer, *more: str) -> tuple[str, ...]:
    options = (f"generation.base_url={server.url}", "generation.model=base", "generation.max_retries=0")
    return ("generation=endpoint", *options, *more)


def told(request: dict[str, Any]) -> str:
    """What a request is answered; the same for the same one."""
    return f"sample {request['seed']}"


def parts_of(request: dict[str, Any]) -> list[str]:
    content = [part for message in request["messages"] for part in message["content"] if isinstance(part, dict)]
    return [part["type"] for part in content]


def test_an_endpoint_answers_what_is_lacking_and_no_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two samples of each of five prompts, each with a seed of its own; those that fail are asked for again, alone."""
    monkeypatch.setattr(TinyModel, "load", None)
    broken: set[int] = set()

    def answer(request: dict[str, Any]) -> Reply:
        broken.update({request["seed"]} if len(broken) < 3 else ())
        return Reply(status=503) if request["seed"] in broken else Reply(told(request))

    with ChatServer(answer) as server:
        words = (
            "model=random",
            "data.size=5",
            *served(server, "generation.num_return_sequences=2"),
            "hydra.run.dir=run",
        )
        first = launch("blind", *words, cwd=tmp_path, cache=tmp_path)
        assert first.status == 2
        assert "blind responses: 3 of 10 prompts got no answer" in first.err.splitlines()[-1]
        assert len(server.requests) == len({request["seed"] for request in server.requests}) == 10
        for request in server.requests:
            assert (request["model"], request["max_tokens"], request["temperature"]) == ("base", 256, 1)
            assert request["top_p"] == 1
            assert parts_of(request) == []
        server.requests.clear()
        lacking, server.answer = set(broken), lambda request: Reply(told(request))
        again = launch("blind", *words, cwd=tmp_path, cache=tmp_path)
        assert again.status == 0, again.err
        assert {request["seed"] for request in server.requests} == lacking
        server.requests.clear()
        more = (*words[:-1], "generation.num_return_sequences=3", "hydra.run.dir=more")
        assert launch("blind", *more, cwd=tmp_path, cache=tmp_path).status == 0
        assert len(server.requests) == 5, "two samples of each are kept"
        launch("blind", *words[:-1], "generation.image_view=real", "hydra.run.dir=real", cwd=tmp_path, cache=tmp_path)
        assert {tuple(parts_of(request)) for request in server.requests[5:]} == {("image_url", "text")}
    two, three = (
        [json.loads(line) for line in (tmp_path / run / "blind.jsonl").read_text().splitlines()]
        for run in ("run", "more")
    )
    assert [row for row in three if not row["id"].endswith("#3")] == two
    assert len({row["blind"] for row in three}) == 15
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "base"


def test_an_endpoint_that_takes_no_seed_is_asked_without_one_and_that_is_told_once(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        if "seed" in request:
            return Reply(status=400, message="Unrecognized request argument supplied: seed")
        return Reply("It is red.")

    with ChatServer(answer) as server:
        words = ("model=random", "data.size=5", *served(server), "hydra.run.dir=run")
        ended = launch("blind", *words, cwd=tmp_path, cache=tmp_path)
        assert ended.status == 0, ended.err
        assert ended.err.count("takes no seed") == 1
        assert len(server.requests) == 10


def test_training_takes_what_an_endpoint_says_and_knows_what_was_cut(tmp_path: Path) -> None:
    with ChatServer(lambda request: Reply(told(request), finish_reason="length")) as server:
        words = (*QUICK, *served(server), "evaluate=false", "hydra.run.dir=run")
        ended = launch("train", *words, cwd=tmp_path, cache=tmp_path)
        assert ended.status == 0, ended.err
        assert "blind responses: 0 from the rows themselves, 16 cut at 6 tokens" in ended.err
        assert len(server.requests) == 16
        refused = [
            (("rounds=2",), "generation=endpoint: serves one model"),
            (("generation.image_view=corrupted", "corruption=noise"), "generation=endpoint: masks and noise are made"),
        ]
        for more, reason in refused:
            out = f"hydra.run.dir={tmp_path / 'other'}"
            ended = launch("train", *words[:-1], *more, out, cwd=tmp_path, cache=tmp_path)
            assert ended.status == 2
            assert ended.err.splitlines()[-1].startswith(f"mmsafe.train: {reason}")
        assert len(server.requests) == 16
