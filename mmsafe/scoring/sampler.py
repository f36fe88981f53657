"""The order of training items: a function of seed and epoch alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from mmsafe.data.example import Example

POOL = 16
"""Batches that are sorted together: large enough to save padding, small enough to keep the order random."""


def text_length(example: Example) -> int:
    """Characters of prompt and longest response: a stand-in for tokens that needs no tokenizer."""
    return sum(len(turn.text) for turn in example.turns) + max(map(len, example.responses.values()), default=0)


class Draw(NamedTuple):
    """An item by its index, and its weight in the mean over the micro-batch."""

    item: int
    weight: float = 1.0


class Part(NamedTuple):
    """Which share of each optimiser step falls to this process and micro-batch."""

    rank: int = 0
    world: int = 1
    accumulate: int = 1


ALONE = Part()


def cut(order: Sequence[int], size: int) -> list[list[int]]:
    """Parts of `size`, in this order; the last may be smaller."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def alike(item: int) -> int:
    """The share of an item where all items count the same."""
    return 1


class EpochBatches(Sampler[list[Draw]]):
    """Shuffled batches, a new order every epoch; with `lengths`, items of similar length share a batch.

    Batches are cut for all ranks together, `batch_size` items for each, and dealt out. Weights make the gradient of an
    optimiser step the mean over its items, in which an item counts `share` times, however many ranks and micro-batches
    share them and however few are left at the end of an epoch: a rank for which none is left repeats one with weight 0,
    until the step is complete. `epoch` and `position` say where the next iteration begins, so that a resumed run sees
    what was left.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        part: Part = ALONE,
        share: Callable[[int], int] = alike,
    ) -> None:
        self.size = size
        self.batch_size = batch_size * part.world
        self.seed = seed
        self.lengths = lengths
        self.part = part
        self.share = share
        self.epoch = 0
        self.position = 0

    @property
    def count(self) -> int:
        """Batches of all ranks together, in every epoch."""
        return -(-self.size // self.batch_size)

    def __len__(self) -> int:
        return -(-self.count // self.part.accumulate) * self.part.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches, begin = self._batches(generator), self.position
        # Before the first batch, not after the last: Lightning does not ask for one more than there are.
        self.epoch, self.position = self.epoch + 1, 0
        for number in range(begin, len(self)):
            yield self._dealt(batches, number)

    def _dealt(self, batches: Sequence[list[list[int]]], number: int) -> list[Draw]:
        rank, world, accumulate = self.part
        first = number - number % accumulate
        step = sum(
            self.share(item) for batch in batches[first : first + accumulate] for items in batch for item in items
        )
        dealt = batches[number][rank] if number < len(batches) else []
        if not dealt:
            return [Draw(batches[-1][0][0], 0.0)]
        return [Draw(item, self.share(item) * len(dealt) * world * accumulate / step) for item in dealt]

    def _batches(self, generator: torch.Generator) -> list[list[list[int]]]:
        """The batches of an epoch, each dealt to the ranks."""
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is None:
            return self._cut(order)
        width, batches = self.batch_size * POOL, []
        for start in range(0, len(order), width):
            batches += self._cut(sorted(order[start : start + width], key=self.lengths.__getitem__))
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _cut(self, order: list[int]) -> list[list[list[int]]]:
        world = self.part.world
        return [[batch[rank::world] for rank in range(world)] for batch in cut(order, self.batch_size)]
