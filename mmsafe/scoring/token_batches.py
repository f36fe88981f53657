"""Batches by tokens: as many items as fit, which then share a line."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch

from mmsafe.scoring.collate import Collator, Item, Items
from mmsafe.scoring.sampler import ALONE, EpochBatches, Part, alike, cut

log = logging.getLogger(__name__)
OPEN = 16
"""Batches that are filled at the same time: more are fuller, and cost more time."""
GRAIN = 8
"""Tokens by which the sizes of items are told apart."""


def item_tokens(collator: Collator, item: Item) -> int:
    """Tokens of an item in packed lines: its prompt once for each view of the image, and all its responses."""
    rows = [(row, collator.shown(item, row)) for row in collator.groups[item.group].values()]
    prompts = {row.image: collator.encoder.prompt_ids(shown) for row, shown in rows}
    responses = (collator.clipped(prompts[row.image], shown, row.response) for row, shown in rows)
    return sum(map(len, chain(prompts.values(), responses)))


def batches_of(collator: Collator, items: Items, positions: Sequence[int], batch_size: int) -> list[list[int]]:
    """The items at `positions` in batches of the collator's `max_tokens`, or else in this order, `batch_size` each."""
    if collator.max_tokens is None:
        return cut(positions, batch_size)
    return packed({position: item_tokens(collator, items[position]) for position in positions}, collator.max_tokens)


def packed(sizes: Mapping[int, int], limit: int) -> list[list[int]]:
    """Items, in the order of `sizes`, in batches of at most `limit` tokens; a larger one is a batch of its own.

    An item goes to the fullest batch that has room for it, of the `OPEN` emptiest.
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
        if len(room) > OPEN:
            del room[min(room, key=room.__getitem__)]
    return batches


class TokenBatches(EpochBatches):
    """Batches of at most `max_tokens` for each rank; `tokens` has those of each item.

    They are packed once, for every epoch has to have as many of them. Each epoch puts another item of the same size,
    rounded up to `GRAIN` tokens, in an item's place, so that company changes.
    """

    def __init__(
        self, tokens: Sequence[int], max_tokens: int, seed: int, part: Part = ALONE, share: Callable[[int], int] = alike
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
        same: dict[int, list[int]] = defaultdict(list)
        for item in torch.randperm(self.size, generator=generator).tolist():
            same[self.sizes[item]].append(item)
        drawn = [[same[self.sizes[item]].pop() for item in batch] for batch in self.packed]
        order = torch.randperm(len(drawn), generator=generator).tolist()
        batches = [[drawn[i] for i in batch] for batch in cut(order, self.part.world)]
        return [batch + [[]] * (self.part.world - len(batch)) for batch in batches]
