"""Batches of similar length: less padding, and the order is a function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from mmsafe.data.example import Example

POOL = 16
"""Batches that are sorted together: large enough to save padding, small enough to keep the order random."""


def text_length(example: Example) -> int:
    """Characters of prompt and longest response: a stand-in for tokens that needs no tokenizer."""
    return sum(len(turn.text) for turn in example.turns) + max(map(len, example.responses.values()), default=0)


class LengthGroupedBatches(Sampler[list[int]]):
    """Shuffles, sorts pools of batches by length, and shuffles the batches; resumable in mid-epoch."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches()[self.position :]:
            self.position += 1
            yield batch
        self.epoch += 1
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Saved by `StatefulDataLoader`."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.epoch, self.position = state["epoch"], state["position"]

    def _batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        width, batches = self.batch_size * POOL, []
        for start in range(0, len(order), width):
            pool = sorted(order[start : start + width], key=self.lengths.__getitem__)
            batches += [pool[i : i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
