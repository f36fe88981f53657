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

    def __init__(self, items: Items, collator: Any, *, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        self.items = items
        self.collator = collator
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    def train_dataloader(self) -> StatefulDataLoader[Any]:
        """Lightning saves and restores its state with every checkpoint."""
        return StatefulDataLoader(
            self.items,
            batch_size=self.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(self.seed),
            num_workers=self.num_workers,
            collate_fn=self.collator,
        )
