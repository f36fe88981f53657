"""Batched generation: what plain transformers would say one prompt at a time, and honest samples of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from mmsafe.data.example import Example, Turn
from mmsafe.data.microworld import MicroWorld
from mmsafe.generation import GumbelNoise, Prompt, Response, generate
from mmsafe.settings import Generation

GREEDY = Generation(temperature=0, max_new_tokens=10, batch_size=5)
SAMPLED = Generation(temperature=1, max_new_tokens=10, batch_size=5)
TINY = 1e-3
"""Smallest p-value taken for chance; seeds are fixed, so a test passes always or never."""


@pytest.fixture(scope="module")
def talker(llava: Any) -> Any:
    """A random model that ends some of its answers early: EOS is the louder, the more a hidden unit is on."""
    made = copy.deepcopy(llava)
    head = made.model.lm_head.weight
    with torch.no_grad():
        head[made.processor.tokenizer.eos_token_id] = (
            4 * head.norm(dim=-1).max() * torch.sign(head.sum(0)) / len(head[0]) ** 0.5
        )
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Single- and multi-turn, with an image and text-only, of many lengths."""
    shown = MicroWorld(test_size=12, seed=3).holdout().examples
    assert {example.tags["turns"] for example in shown} == {"single", "multi"}
    return [*shown, *(example.blinded() for example in shown[:8])]


def answers(llava: Any, prompts: Sequence[Prompt], settings: Generation) -> list[Response]:
    found: dict[int, Response] = {}
    for batch in generate(llava, prompts, settings):
        assert 1 <= len(batch) <= settings.batch_size
        assert not found.keys() & dict(batch).keys()
        found |= dict(batch)
    return [found[position] for position in range(len(prompts))]


def one_by_one(llava: Any, examples: Sequence[Example], max_new_tokens: int) -> list[Response]:
    """The obvious way: processor and `generate`, one prompt at a time."""
    processor, found = llava.processor, []
    for example in examples:
        text = processor.apply_chat_template(example.messages(), tokenize=False, add_generation_prompt=True)
        images = [example.image.load()] if example.image else None
        inputs = processor(text=processor.tokenizer.bos_token + text, images=images, return_tensors="pt")
        output = llava.model.eval().generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        found.append(Response(text, processor.tokenizer.eos_token_id in new))
    return found


def words_only(llava: Any, logits: dict[str, float]) -> Any:
    """A model that says these words, of one token each (none: EOS), with these logits, whatever it is asked."""
    made = copy.deepcopy(llava)
    tokenizer, old = made.processor.tokenizer, made.model.lm_head
    head = torch.nn.Linear(old.in_features, old.out_features)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-torch.inf)
        for word, logit in logits.items():
            (token,) = tokenizer.encode(f" {word}", add_special_tokens=False) if word else [tokenizer.eos_token_id]
            head.bias[token] = logit
    made.model.lm_head = head
    return made


def question(text: str = "What is this?") -> Example:
    return Example("q", (Turn("user", text),), None, {})


# Greedy decoding


def test_greedy_batches_say_what_plain_transformers_says_one_by_one(talker: Any, examples: list[Example]) -> None:
    found = answers(talker, [Prompt(example) for example in examples], GREEDY)
    assert found == one_by_one(talker, examples, GREEDY.max_new_tokens)
    assert {response.finished for response in found} == {True, False}
    assert len({response.text for response in found}) > 5


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_batch_size_or_order(talker: Any, examples: list[Example], settings: Any) -> None:
    prompts = [Prompt(example) for example in examples]
    expected = answers(talker, prompts, settings)
    order = list(range(len(prompts)))
    for size in (1, 3, 64):
        random.Random(size).shuffle(order)
        found = answers(talker, [prompts[i] for i in order], replace(settings, batch_size=size))
        assert found == [expected[i] for i in order]


def test_no_prompts_no_answers(talker: Any) -> None:
    assert list(generate(talker, [], GREEDY)) == []


# Sampling


def test_gumbel_noise_draws_from_the_softmax_and_steps_are_independent() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    noise, n = GumbelNoise(range(4000)), 4000
    ids = torch.zeros(n, 1, dtype=torch.long)
    first, second = (noise(ids, logits.expand(n, -1)).argmax(-1).numpy() for _ in range(2))
    for draws in (first, second):
        counts = np.bincount(draws, minlength=5)
        assert counts[4] == 0
        assert chisquare(counts[:4], n * logits[:4].double().softmax(0).numpy()).pvalue > TINY
    table = np.histogram2d(first, second, bins=(np.arange(5), np.arange(5)))[0]
    assert chi2_contingency(table).pvalue > TINY


def test_gumbel_noise_belongs_to_the_sequence_not_to_its_place_in_the_batch() -> None:
    logits, ids = torch.randn(3, 7), torch.zeros(3, 1, dtype=torch.long)
    together = GumbelNoise([11, 22, 33])(ids, logits)
    turned = GumbelNoise([33, 11])(ids[:2], logits[[2, 0]])
    assert torch.equal(turned, together[[2, 0]])


def nucleus(logits: Sequence[float], temperature: float, top_p: float) -> np.ndarray:
    """Softmax at this temperature over the fewest likeliest words that together reach `top_p`."""
    chances = np.exp(np.array(logits) / temperature)
    chances /= chances.sum()
    kept = np.zeros_like(chances)
    for i in np.argsort(-chances):
        if kept.sum() < top_p:
            kept[i] = chances[i]
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "words"), [(1, 1, 4), (0.5, 1, 4), (2, 1, 4), (1, 0.7, 2), (0.5, 0.9, 2), (1, 0.05, 1)]
)
def test_samples_follow_temperature_and_top_p(llava: Any, temperature: float, top_p: float, words: int) -> None:
    logits = {"knife": 2.0, "spoon": 1.2, "red": 0.5, "boss": -0.2}
    settings = Generation(temperature=temperature, top_p=top_p, max_new_tokens=8, batch_size=150)
    found = answers(words_only(llava, logits), [Prompt(question(), draw) for draw in range(300)], settings)
    said = " ".join(response.text for response in found).split()
    assert len(said) == 300 * 8
    expected = nucleus(list(logits.values()), temperature, top_p)
    counts = np.array([said.count(word) for word in logits])
    assert np.count_nonzero(expected) == words
    assert counts[expected == 0].sum() == 0
    if words > 1:
        assert chisquare(counts[expected > 0], len(said) * expected[expected > 0]).pvalue > TINY


def test_a_sample_is_decided_by_seed_prompt_and_draw_alone(talker: Any, examples: list[Example]) -> None:
    def sample(seed: int, draw: int) -> list[Response]:
        settings = Generation(max_new_tokens=6, seed=seed)
        return answers(talker, [Prompt(example, draw) for example in examples[:6]], settings)

    first = sample(0, 0)
    torch.manual_seed(99)
    assert sample(0, 0) == first
    for other in (sample(1, 0), sample(0, 1), sample(1, 1)):
        assert all(a.text != b.text for a, b in zip(first, other, strict=True))


def test_sampling_leaves_the_global_random_state_alone(talker: Any, examples: list[Example]) -> None:
    before = torch.get_rng_state()
    answers(talker, [Prompt(examples[0])], SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_decoding_takes_no_notice_of_seed_and_draw(talker: Any, examples: list[Example]) -> None:
    first = answers(talker, [Prompt(examples[0])], GREEDY)
    other = Generation(temperature=0, max_new_tokens=10, seed=5, top_p=0.1)
    assert answers(talker, [Prompt(examples[0], draw=3)], other) == first


# Where an answer ends


@pytest.mark.parametrize("length", [1, 2, 7])
def test_max_new_tokens_cuts_and_says_so(llava: Any, length: int) -> None:
    settings = Generation(temperature=0, max_new_tokens=length)
    found = answers(words_only(llava, {"knife": 0.0}), [Prompt(question())], settings)
    assert found == [Response(" ".join(["knife"] * length), finished=False)]


def test_an_answer_that_ends_at_once_is_empty_and_finished(llava: Any) -> None:
    found = answers(words_only(llava, {"": 0.0}), [Prompt(question())], Generation(temperature=0, max_new_tokens=1))
    assert found == [Response("", finished=True)]


def test_finished_answers_hold_nothing_after_their_end(llava: Any) -> None:
    """Some end early beside others that go on, so their rows are padded."""
    settings = Generation(max_new_tokens=5, batch_size=40)
    found = answers(words_only(llava, {"knife": 1.0, "": 0.0}), [Prompt(question(), i) for i in range(40)], settings)
    assert {response.finished for response in found} == {True, False}
    for response in found:
        said = response.text.split()
        assert set(said) <= {"knife"}
        assert len(said) < 5 or not response.finished
        assert len(said) == 5 or response.finished


# The model is left as it was


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(talker: Any, examples: list[Example], training: bool) -> None:
    made = copy.deepcopy(talker)
    made.model.train(training)
    modes = []
    for _ in generate(made, [Prompt(example) for example in examples[:3]], GREEDY):
        modes.append(made.model.training)
    assert modes == [False]
    assert made.model.training == training
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_the_mode_is_restored_after_an_error_and_after_giving_up(talker: Any, examples: list[Example]) -> None:
    made = copy.deepcopy(talker)
    made.model.train()
    prompts = [Prompt(example) for example in examples[:3]]
    batches = generate(made, prompts, Generation(temperature=0, max_new_tokens=2, batch_size=1))
    next(batches)
    assert not made.model.training
    batches.close()
    assert made.model.training

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    made.model.generate = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        list(generate(made, prompts, GREEDY))
    assert made.model.training


def test_the_mode_of_each_part_is_restored(talker: Any, examples: list[Example]) -> None:
    made = copy.deepcopy(talker)
    made.model.train()
    made.model.model.vision_tower.eval()
    before = {name: module.training for name, module in made.model.named_modules()}
    list(generate(made, [Prompt(examples[0])], GREEDY))
    assert {name: module.training for name, module in made.model.named_modules()} == before


def test_gradients_stay_on_for_the_caller(talker: Any, examples: list[Example]) -> None:
    for _ in generate(talker, [Prompt(examples[0])], GREEDY):
        assert torch.is_grad_enabled()
