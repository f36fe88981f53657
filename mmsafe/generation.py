"""Batched generation whose result does not depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from mmsafe.data.example import Example, digest
from mmsafe.models.encoding import Encoder
from mmsafe.models.llava import Llava
from mmsafe.settings import Generation


class Response(NamedTuple):
    """A generated text, and whether it ended by itself rather than at `max_new_tokens`."""

    text: str
    finished: bool


class Prompt(NamedTuple):
    """What to answer, and the how-manieth sample of this very prompt it is."""

    example: Example
    draw: int = 0

    @property
    def key(self) -> str:
        """Identity of the sample, under one model and one setting."""
        return f"{self.example.prompt_key()}-{self.draw}"


class GumbelNoise(LogitsProcessor):
    """Adds seeded Gumbel noise, so that greedy decoding of the sum is a sample from the softmax (Gumbel-max trick).

    Every sequence has a generator of its own: its sample is the same in any batch, order or process.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` are logits, `[batch, vocabulary]`."""
        size = scores.shape[-1]
        noise = torch.stack([torch.empty(size).exponential_(generator=g) for g in self._generators])
        return scores.float() - noise.clamp_min(torch.finfo(torch.float32).tiny).log().to(scores.device)


@torch.no_grad()
def generate(llava: Llava, prompts: Sequence[Prompt], settings: Generation) -> Iterator[list[tuple[int, Response]]]:
    """Answer every prompt; yields, batch by batch, (position in `prompts`, response).

    Prompts of similar length share a batch. The model is put into evaluation mode and left as it was.
    """
    order = sorted(range(len(prompts)), key=lambda i: _size(prompts[i].example))
    with evaluating(llava.model), _plain(llava.model):
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            yield list(zip(chosen, _answer(llava, [prompts[i] for i in chosen], settings), strict=True))


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
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _size(prompt: Example) -> tuple[int, bool]:
    return sum(len(turn.text) for turn in prompt.turns), prompt.image is not None


def _answer(llava: Llava, prompts: Sequence[Prompt], settings: Generation) -> list[Response]:
    encoder = llava.encoder()
    model: Any = llava.model
    inputs = left_padded(encoder, [prompt.example for prompt in prompts])
    eos = encoder.tokenizer.eos_token_id
    output = model.generate(
        **{name: tensor.to(model.device) for name, tensor in inputs.items()},
        generation_config=GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            pad_token_id=encoder.pad_id,
            bos_token_id=encoder.tokenizer.bos_token_id,
            eos_token_id=eos,
        ),
        logits_processor=_sampling(prompts, settings),
    )
    new = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [Response(encoder.decode(_until(ids, eos)), eos in ids) for ids in new]


def left_padded(encoder: Encoder, prompts: Sequence[Example]) -> dict[str, Tensor]:
    """Model inputs with prompts aligned at their ends, as generation needs them."""
    ids = [encoder.prompt_ids(prompt) for prompt in prompts]
    width = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[encoder.pad_id] * (width - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
    }
    pixels = [encoder.pixels(prompt.image) for prompt in prompts if prompt.image is not None]
    return inputs | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def _sampling(prompts: Sequence[Prompt], settings: Generation) -> LogitsProcessorList:
    if settings.temperature == 0:
        return LogitsProcessorList()
    steps: list[Any] = []
    if settings.temperature != 1:
        steps.append(TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    seeds = [int(digest([settings.seed, prompt.key])[:15], 16) for prompt in prompts]
    return LogitsProcessorList([*steps, GumbelNoise(seeds)])


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
