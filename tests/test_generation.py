"""Batched generation: what plain transformers would say one prompt at a time, and honest samples of it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from mmsafe.core.settings import Generation
from mmsafe.data.example import Example, Turn, digest
from mmsafe.generation.generate import GumbelNoise, Prompt, Response, generate
from mmsafe.microworld.reader import MicroWorld

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


def one_by_one(llava: Any, prompts: Sequence[Prompt], settings: Generation) -> list[Response]:
    """The obvious way: processor and `generate`, one prompt at a time, nothing shared."""
    processor, found = llava.processor, []
    for example, draw in prompts:
        text = processor.apply_chat_template(example.messages(), tokenize=False, add_generation_prompt=True)
        images = [example.images[0].load()] if example.images else None
        inputs = processor(text=processor.tokenizer.bos_token + text, images=images, return_tensors="pt")
        output = llava.model.eval().generate(
            **inputs,
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            logits_processor=sampling(settings, f"{example.prompt_key()}-{draw}") if settings.temperature else [],
        )
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        found.append(Response(text, processor.tokenizer.eos_token_id in new))
    return found


def sampling(settings: Generation, key: str) -> list[Any]:
    seed = int(digest([settings.seed, key])[:15], 16)
    temperature = TemperatureLogitsWarper(float(settings.temperature))
    return [temperature, TopPLogitsWarper(settings.top_p), ObviousNoise([seed])]


class ObviousNoise(LogitsProcessor):
    """Gumbel noise as it was first written, which decides what caches hold: a fresh tensor per sequence and step."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[-1]
        noise = torch.stack([torch.empty(size).exponential_(generator=g) for g in self.generators])
        return scores.float() - noise.clamp_min(torch.finfo(torch.float32).tiny).log().to(scores.device)


@contextmanager
def passes(llava: Any) -> Iterator[list[tuple[int, int]]]:
    """Sequences and tokens of each pass through the language model within the block."""
    seen: list[tuple[int, int]] = []
    language = llava.model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


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
    return Example("q", (Turn("user", text),), (), {})


# Many samples of one prompt

NUCLEUS = replace(SAMPLED, temperature=0.8, top_p=0.9, seed=3)
WAYS = {"greedy": GREEDY, "sampled": SAMPLED, "nucleus": NUCLEUS}
DRAWS = 3


@pytest.fixture(scope="module")
def alone(talker: Any, examples: list[Example]) -> dict[str, dict[tuple[int, int], Response]]:
    """What the obvious way says, by way, example and draw."""
    places = [(number, draw) for number in range(len(examples)) for draw in range(DRAWS)]
    prompts = [Prompt(examples[number], draw) for number, draw in places]
    return {
        name: dict(zip(places, one_by_one(talker, prompts, settings), strict=True)) for name, settings in WAYS.items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_samples_that_share_a_prompt_are_those_of_the_obvious_way(
    talker: Any, examples: list[Example], alone: dict[str, dict[tuple[int, int], Response]], way: str
) -> None:
    expected = alone[way]
    found = answers(talker, [Prompt(examples[i], draw) for i, draw in expected], WAYS[way])
    assert found == list(expected.values())
    assert {response.finished for response in found} == {True, False}
    texts = [{found[i + draw].text for draw in range(DRAWS)} for i in range(0, len(found), DRAWS)]
    assert all(len(said) == 1 for said in texts) if way == "greedy" else all(len(said) > 1 for said in texts)


@hypothesis_settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    way=st.sampled_from(sorted(WAYS)),
    batch_size=st.integers(1, 12),
    asked=st.lists(st.tuples(st.integers(0, 19), st.integers(0, DRAWS - 1)), min_size=1, max_size=12),
)
def test_no_company_changes_a_sample(
    talker: Any,
    examples: list[Example],
    alone: dict[str, dict[tuple[int, int], Response]],
    way: str,
    batch_size: int,
    asked: list[tuple[int, int]],
) -> None:
    """Any prompts, with and without image, any of them several times, in any order and batches."""
    assert len(examples) == 20
    prompts = [Prompt(examples[i], draw) for i, draw in asked]
    found = answers(talker, prompts, replace(WAYS[way], batch_size=batch_size))
    assert found == [alone[way][place] for place in asked]


def test_a_prompt_goes_through_the_model_once(talker: Any, examples: list[Example]) -> None:
    chosen = [examples[0], examples[1], examples[0].blinded()]
    towers: list[int] = []
    tower = talker.model.model.vision_tower
    hook = tower.register_forward_pre_hook(lambda _, inputs: towers.append(len(inputs[0])))
    try:
        with passes(talker) as seen:
            answers(talker, [Prompt(e, draw) for draw in range(5) for e in chosen], replace(SAMPLED, batch_size=15))
    finally:
        hook.remove()
    width = max(len(talker.encoder().prompt_ids(example)) for example in chosen)
    assert seen[0] == (3, width - 1)
    assert set(seen[1:]) == {(15, 1)}
    assert towers == [2]


def test_prompts_that_differ_take_no_pass_more_than_they_need(talker: Any, examples: list[Example]) -> None:
    with passes(talker) as seen:
        answers(talker, [Prompt(example) for example in examples[:4]], replace(GREEDY, max_new_tokens=3))
    width = max(len(talker.encoder().prompt_ids(example)) for example in examples[:4])
    assert seen == [(4, width), (4, 1), (4, 1)]


def test_samples_of_a_prompt_are_neighbours_and_the_longest_come_first(talker: Any, examples: list[Example]) -> None:
    """A batch that does not fit into memory is then the first."""
    texts = [
        question(text) for text in ("Short?", "What is that thing?", "What is this thing?", "What is it for, then?")
    ]
    prompts = [Prompt(example, draw) for draw in range(3) for example in [*texts, examples[0]]]
    batches = [
        [prompts[position].example for position, _ in batch]
        for batch in generate(talker, prompts, replace(SAMPLED, batch_size=3))
    ]
    assert all(batch == [batch[0]] * 3 for batch in batches)
    order = [examples[0], texts[3], texts[1], texts[2], texts[0]]
    assert [batch[0] for batch in batches] in (order, [*order[:2], *order[3:1:-1], order[4]])


def test_greedy_decoding_gives_one_sample_only() -> None:
    with pytest.raises(ValidationError, match="num_return_sequences=4 needs temperature > 0"):
        Generation(temperature=0, num_return_sequences=4)
    assert Generation(temperature=0, num_return_sequences=1).num_return_sequences == 1
    assert Generation(temperature=0.1, num_return_sequences=4).num_return_sequences == 4


# Sampling


@pytest.mark.parametrize("vocabulary", [1, 7, 1023, 1024, 32001])
def test_the_noise_is_the_same_as_ever(vocabulary: int) -> None:
    """Caches and finished runs hold samples made with it. A finished sequence needs none."""
    seeds, end = [5, 6, 7], 2
    noise, expected = GumbelNoise(seeds, [end]), ObviousNoise(seeds)
    ended: list[int] = []
    for step in range(5):
        last = torch.tensor([[0], [end if step == 2 else 1], [end if step == 4 else 1]])
        ended += [row for row in range(3) if last[row] == end]
        scores = torch.randn(3, vocabulary)
        running = [row for row in range(3) if row not in ended]
        assert torch.equal(noise(last, scores)[running], expected(last, scores)[running])


def test_a_prompt_may_end_with_the_token_that_ends_an_answer() -> None:
    scores, ids = torch.randn(1, 9), torch.tensor([[2]])
    assert torch.equal(GumbelNoise([5], [2])(ids, scores), ObviousNoise([5])(ids, scores))


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


def nucleus(logits: Sequence[float], temperature: float, top_p: float) -> np.ndarray:
    """Softmax at this temperature over the fewest likeliest words that together reach `top_p`."""
    chances = np.exp(np.array(logits) / temperature)
    chances /= chances.sum()
    kept = np.zeros_like(chances)
    for i in np.argsort(-chances):
        if kept.sum() < top_p:
            kept[i] = chances[i]
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_p", "words"), [(1, 1, 4), (2, 1, 4), (0.5, 0.9, 2), (1, 0.05, 1)])
def test_samples_follow_temperature_and_top_p(llava: Any, temperature: float, top_p: float, words: int) -> None:
    logits = {"knife": 2.0, "spoon": 1.2, "red": 0.5, "boss": -0.2}
    settings = Generation(temperature=temperature, top_p=top_p, max_new_tokens=8, batch_size=200)
    found = answers(words_only(llava, logits), [Prompt(question(), draw) for draw in range(200)], settings)
    said = " ".join(response.text for response in found).split()
    assert len(said) == 200 * 8
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
    before = torch.get_rng_state()
    assert sample(0, 0) == first
    assert torch.equal(torch.get_rng_state(), before)
    for other in (sample(1, 0), sample(0, 1), sample(1, 1)):
        assert all(a.text != b.text for a, b in zip(first, other, strict=True))


# Where an answer ends


@pytest.mark.parametrize(
    ("word", "length", "said"), [("knife", 1, "knife"), ("knife", 3, "knife knife knife"), ("", 1, "")]
)
def test_max_new_tokens_cuts_and_says_so(llava: Any, word: str, length: int, said: str) -> None:
    settings = Generation(temperature=0, max_new_tokens=length)
    assert answers(words_only(llava, {word: 0.0}), [Prompt(question())], settings) == [Response(said, not word)]


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


def test_the_mode_of_each_part_is_restored_after_all_answers_an_error_and_giving_up(
    talker: Any, examples: list[Example]
) -> None:
    made = copy.deepcopy(talker)
    made.model.train()
    made.model.model.vision_tower.eval()

    def modes() -> dict[str, bool]:
        return {name: module.training for name, module in made.model.named_modules()}

    before, prompts = modes(), [Prompt(example) for example in examples[:3]]
    for _ in generate(made, prompts, GREEDY):
        assert not any(modes().values())
        assert torch.is_grad_enabled()
    assert modes() == before
    batches = generate(made, prompts, replace(GREEDY, batch_size=1))
    next(batches)
    batches.close()
    assert modes() == before

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    made.model.generate = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        list(generate(made, prompts, GREEDY))
    assert modes() == before
