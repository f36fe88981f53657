"""The order of training items: a function of seed and epoch alone."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from mmsafe.data.example import Example

log = logging.getLogger(__name__)
POOL = 16
"""Batches that are sorted together: large enough to save padding, small enough to keep the order random."""


def text_length(example: Example) -> int:
    """Characters of prompt and longest response: a stand-in for tokens that needs no tokenizer."""
    return sum(len(turn.text) for turn in example.turns) + max(map(len, example.responses.values()), default=0)


GRAIN = 8
"""Tokens by which the sizes of items are told apart."""


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


def packed(sizes: Mapping[int, int], limit: int) -> list[list[int]]:
    """Items, in the order of `sizes`, in batches of at most `limit` tokens; a larger one is a batch of its own.

    An item goes to the fullest batch that has room for it, of the latest `POOL` that are not full.
    """
    batches: list[list[int]] = []
    room: dict[int, int] = {}
    for item, size in sizes.items():
        fitting = [batch for batch, left in room.items() if left >= size]
        if fitting:
            batch = min(fitting, key=room.__getitem__)
        else:
            batch = len(batches)
            batches.append([])
            room[batch] = limit
        batches[batch].append(item)
        room[batch] -= size
        if len(room) > POOL:
            del room[min(room, key=room.__getitem__)]
    return batches


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
        step = sum(self.share(item) for batch in batches[first : first + accumulate] for own in batch for item in own)
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


class TokenBatches(EpochBatches):
    """Batches of at most `max_tokens` for each rank; `tokens` has those of each item.

    They are packed once, for every epoch has to have as many of them. Each epoch puts another item of the same size,
    rounded up to `GRAIN` tokens, in an item's place, so that company changes.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        max_tokens: int,
        seed: int,
        part: Part = ALONE,
        share: Callable[[int], int] = alike,
    ) -> None:
        super().__init__(len(tokens), 1, seed, part=part, share=share)
        self.sizes = [-(-count // GRAIN) * GRAIN for count in tokens]
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed)).tolist()
        self.packed = packed({item: self.sizes[item] for item in order}, max_tokens)
        if larger := sum(count > max_tokens for count in tokens):
            line = "data.max_tokens=%d: %d of %d questions are larger, and batches of their own"
            log.warning(line, max_tokens, larger, self.size)

    @property
    def count(self) -> int:
        return -(-len(self.packed) // self.part.world)

    def _batches(self, generator: torch.Generator) -> list[list[list[int]]]:
        alike, world = defaultdict(list), self.part.world
        for item in torch.randperm(self.size, generator=generator).tolist():
            alike[self.sizes[item]].append(item)
        drawn = [[alike[self.sizes[item]].pop() for item in batch] for batch in self.packed]
        order = torch.randperm(len(drawn), generator=generator).tolist()
        batches = [[drawn[i] for i in batch] for batch in cut(order, world)]
        return [batch + [[]] * (world - len(batch)) for batch in batches]
