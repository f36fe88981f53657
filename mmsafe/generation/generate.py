"""Batched generation whose result does not depend on the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from mmsafe.core.settings import Generation
from mmsafe.data.example import Example, digest
from mmsafe.models.encoding import Encoder
from mmsafe.models.family import position_ids
from mmsafe.models.vlm import VLM
from mmsafe.scoring.ways import agreed_images

BY_TOKEN = ("input_ids", "attention_mask", "position_ids")
CHARACTERS = 4
"""Rough number of characters in a token, for comparing lengths."""


class Response(NamedTuple):
    """A generated text, and whether it ended by itself rather than at `max_new_tokens`."""

    text: str
    finished: bool


class Prompt(NamedTuple):
    """What to answer, and the number of this sample among those of the same prompt, from 0."""

    example: Example
    draw: int = 0

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def key(self) -> str:
        """Identity of the sample, under one model and one setting."""
        return f"{self.example.prompt_key()}-{self.draw}"


class GumbelNoise(LogitsProcessor):
    """Adds seeded Gumbel noise, so that greedy decoding of the sum is a sample from the softmax (Gumbel-max trick).

    Every sequence has a generator of its own: its sample is the same in any batch, order or process. `ends` are tokens
    after which a sequence needs no more noise.
    """

    def __init__(self, seeds: Sequence[int], ends: Collection[int] = ()) -> None:
        self._running = [(row, torch.Generator().manual_seed(seed)) for row, seed in enumerate(seeds)]
        self._ends = ends
        self._noise: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` are logits, `[batch, vocabulary]`."""
        if self._noise is None:
            self._noise = torch.ones(len(self._running), scores.shape[-1])
        elif input_ids.device.type == "cpu":  # elsewhere, to look is to wait for the pass that drawing hides behind
            last = input_ids[:, -1].tolist()
            self._running = [(row, generator) for row, generator in self._running if last[row] not in self._ends]
        for row, generator in self._running:
            self._noise[row].exponential_(generator=generator)
        return scores.float() - self._noise.clamp_min(torch.finfo(torch.float32).tiny).log().to(scores.device)


@torch.no_grad()
def generate(vlm: VLM, prompts: Sequence[Prompt], settings: Generation) -> Iterator[list[tuple[int, Response]]]:
    """Answer every prompt; yields, batch by batch, (position in `prompts`, response).

    Prompts of similar length share a batch, samples of one prompt its pass through the model. The longest come first: a
    batch that does not fit into memory says so at once. The model is put into evaluation mode and left as it was.
    """
    encoder, ends = vlm.encoder(), vlm.ends()
    order = longest_first(encoder, prompts)
    with evaluating(vlm.model), _plain(vlm.model):
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            answers = _answer(vlm.model, encoder, [prompts[i] for i in chosen], settings, ends)
            yield list(zip(chosen, answers, strict=True))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; every part of the model is left in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _plain(model: Any) -> Iterator[None]:
    """Set the checkpoint's own generation settings aside: transformers fills what we leave open from them."""
    original, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = original


def longest_first(encoder: Encoder, prompts: Sequence[Prompt]) -> list[int]:
    """Positions of prompts by length in about characters, then by identity: samples of one prompt are neighbours."""

    def size(position: int) -> tuple[int, str]:
        example = prompts[position].example
        text = sum(len(turn.text) for turn in example.turns)
        return text + CHARACTERS * encoder.image_tokens * len(example.images), example.prompt_key()

    return sorted(range(len(prompts)), key=size, reverse=True)


@agreed_images()
def _answer(
    model: Any, encoder: Encoder, prompts: Sequence[Prompt], settings: Generation, ends: list[int]
) -> list[Response]:
    distinct = {prompt.example.prompt_key(): prompt.example for prompt in prompts}
    inputs = left_padded(encoder, list(distinct.values()), model.config)
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    if len(distinct) < len(prompts):
        row = {key: number for number, key in enumerate(distinct)}
        by_token = inputs.keys() & {*BY_TOKEN, encoder.family.token_types}
        inputs = _shared(model, inputs, by_token, [row[prompt.example.prompt_key()] for prompt in prompts])
    output = model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            pad_token_id=encoder.pad_id,
            bos_token_id=encoder.tokenizer.bos_token_id,
            eos_token_id=ends,
        ),
        logits_processor=_sampling(prompts, settings, ends),
    )
    new = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [Response(encoder.decode(_until(ids, ends)), not set(ends).isdisjoint(ids)) for ids in new]


def _shared(model: Any, inputs: dict[str, Tensor], by_token: Set[str], rows: list[int]) -> dict[str, Any]:
    """Inputs that go on from one pass over each prompt; `rows[i]` is the prompt of sequence i.

    The pass stops before the last token, which `generate` reads itself: it needs a token to go on from.
    """
    before = {name: inputs[name][..., :-1] for name in by_token}
    cache = model(**inputs | before, use_cache=True, logits_to_keep=1).past_key_values
    index = torch.tensor(rows, device=model.device)
    cache.batch_select_indices(index)
    return {name: inputs[name].index_select(-2, index) for name in by_token} | {"past_key_values": cache}


def left_padded(encoder: Encoder, prompts: Sequence[Example], config: Any) -> dict[str, Tensor]:
    """Model inputs with prompts aligned at their ends, as generation needs them."""
    family = encoder.family
    prompted = [encoder.prompt(prompt) for prompt in prompts]
    width = max(len(ids) for ids, _ in prompted)
    positions = [family.positions(ids, encoder.image_token, places) for ids, places in prompted]
    ids = _left([ids for ids, _ in prompted], encoder.pad_id, width)
    return {
        "input_ids": ids,
        "attention_mask": _left([[1] * len(ids) for ids, _ in prompted], 0, width),
        "position_ids": position_ids(positions, lambda axis: _left(axis, 0, width)),
        **family.token_kinds(ids, config),
        **family.forward_inputs([encoder.image_inputs(prompt.images) for prompt in prompts]),
    }


def _left(rows: list[list[int]], fill: int, width: int) -> Tensor:
    return torch.tensor([[fill] * (width - len(row)) + row for row in rows])


def _sampling(prompts: Sequence[Prompt], settings: Generation, ends: Collection[int]) -> LogitsProcessorList:
    if settings.temperature == 0:
        return LogitsProcessorList()
    steps: list[Any] = []
    if settings.temperature != 1:
        steps.append(TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    seeds = [int(digest([settings.seed, prompt.key])[:15], 16) for prompt in prompts]
    return LogitsProcessorList([*steps, GumbelNoise(seeds, ends)])


def _until(ids: list[int], ends: Collection[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))
