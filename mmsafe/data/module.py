"""Training items and their resumable loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from mmsafe.data.collate import Item
from mmsafe.data.example import Example
from mmsafe.data.sampler import LengthGroupedBatches, text_length


class Items(Dataset[Item]):
    """Every example once per group of rows that the objective makes of it."""

    def __init__(self, examples: Sequence[Example], groups: int) -> None:
        self.examples = examples
        self.groups = groups

    def __len__(self) -> int:
        return len(self.examples) * self.groups

    def __getitem__(self, index: int) -> Item:
        return Item(self.examples[index // self.groups], index % self.groups)


class PreferenceData(pl.LightningDataModule):
    """A `StatefulDataLoader` over items: shuffled by seed, resumed exactly in mid-epoch."""

    def __init__(
        self, items: Items, collator: Any, *, batch_size: int, num_workers: int, group_by_length: bool, seed: int
    ) -> None:
        super().__init__()
        self.items = items
        self.collator = collator
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.group_by_length = group_by_length
        self.seed = seed

    def train_dataloader(self) -> StatefulDataLoader[Any]:
        """Lightning saves and restores its state with every checkpoint."""
        order: dict[str, Any]
        if self.group_by_length:
            lengths = [text_length(self.items[i].example) for i in range(len(self.items))]
            order = {"batch_sampler": LengthGroupedBatches(lengths, self.batch_size, self.seed)}
        else:
            generator = torch.Generator().manual_seed(self.seed)
            order = {"batch_size": self.batch_size, "shuffle": True, "generator": generator}
        return StatefulDataLoader(self.items, num_workers=self.num_workers, collate_fn=self.collator, **order)
