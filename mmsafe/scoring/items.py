"""What a batch is made of: every example, once for each group of rows that the objective declares."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch.utils.data import Dataset

from mmsafe.data.example import Example
from mmsafe.scoring.collate import Item
from mmsafe.scoring.sampler import Draw


class Items(Dataset[Item]):
    """Every example once per group of rows that the objective makes of it, but for those `left_out`, by position."""

    def __init__(self, examples: Sequence[Example], groups: int, left_out: Collection[int] = ()) -> None:
        self.examples = examples
        self.groups = groups
        self._places = [place for place in range(len(examples) * groups) if place not in left_out]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, draw: Draw | int) -> Item:
        position, weight = draw if isinstance(draw, Draw) else Draw(draw)
        item = self._places[position]
        return Item(self.examples[item // self.groups], item % self.groups, weight)
