"""Training items and their resumable loader."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mmsafe.core.endings import STOP
from mmsafe.core.ranks import rank, world_size
from mmsafe.data.example import Example
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective
from mmsafe.reference.policies import Collate
from mmsafe.scoring.collate import Collator, Items, guarded, opened
from mmsafe.scoring.lengths import equal_items
from mmsafe.scoring.sampler import EpochBatches, Part, alike, text_length
from mmsafe.scoring.slices import slices_of
from mmsafe.scoring.token_batches import TokenBatches, item_tokens
from mmsafe.training.recipe import Loss, Recipe


class ResumableLoader(DataLoader[Any]):
    """A loader that Lightning takes for resumable, and so does not wind forward: `PreferenceData` knows the place."""

    data: PreferenceData

    def __iter__(self) -> Any:
        """Batches, and the time that the training loop waited for them."""
        batches = super().__iter__()
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.data.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield opened(batch)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the order is a function of seed and epoch, and the place is kept by `PreferenceData`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class PreferenceData(pl.LightningDataModule):
    """Shuffled by seed and epoch; resumed exactly in mid-epoch, with any number of workers (docs/adr/0007)."""

    def __init__(self, vlm: VLM, examples: Sequence[Example], loss: Loss, recipe: Recipe) -> None:
        """Has the reference score the examples under `vlm`, which is not kept, before anything is trained."""
        super().__init__()
        encoder, objective, batching = vlm.encoder(), loss.objective, recipe.batching
        self.slices = slices_of(examples, recipe.trainer.metrics_by)
        collator = loss.scoring.collator(
            encoder,
            objective.groups,
            batching.max_length,
            batching.corruption,
            loss.features,
            self.slices,
            blank_image=world_size() > 1 or not vlm.source.train.language,  # else a batch may have no gradient
            max_tokens=batching.max_tokens,
        )
        left_out = equal_items(examples, objective.groups, encoder, batching.max_length)
        self.items = items = Items(examples, len(objective.groups), left_out)
        self.collate: Collate = collator
        if loss.reference is not None:
            loss.reference.prepare(items, collator, batching.batch_size, batching.num_workers)
            self.collate = loss.reference.collate(collator)
        self.num_workers = batching.num_workers
        self.waited = 0.0
        """Seconds that the training loop has waited for batches."""
        lengths = [text_length(items[i].example) for i in range(len(items))] if batching.group_by_length else None
        part = Part(rank(), world_size(), recipe.trainer.accumulate_grad_batches)
        share = _share(items, collator, objective)
        self.batches = EpochBatches(len(items), batching.batch_size, recipe.seed, lengths, part, share)
        if batching.max_tokens is not None:
            tokens = [item_tokens(collator, items[i]) for i in range(len(items))]
            self.batches = TokenBatches(tokens, batching.max_tokens, recipe.seed, part, share)

    def train_dataloader(self) -> ResumableLoader:
        """A generator of its own keeps the loader from drawing on the global one."""
        loader = ResumableLoader(
            self.items,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=partial(guarded, self.collate),
            generator=torch.Generator(),
            worker_init_fn=_leave_signals,
            pin_memory=torch.cuda.is_available(),
        )
        loader.data = self
        return loader

    def teardown(self, stage: str) -> None:
        """Let go of Lightning's trainer, which would keep the optimiser's state for as long as there are data."""
        self.trainer = None

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches taken; saved with every checkpoint."""
        assert self.trainer is not None
        epoch, taken = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": epoch, "position": taken} if taken < len(self.batches) else {"epoch": epoch + 1, "position": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.batches.epoch, self.batches.position = state["epoch"], state["position"]


def _share(items: Items, collator: Collator, objective: Objective) -> Callable[[int], int]:
    """How often an item counts in the mean of an optimiser step; tokens are counted when its step comes."""
    name = objective.tokens_of
    return alike if name is None else cache(lambda index: collator.tokens(items[index], name))


def _leave_signals(worker: int) -> None:
    """Ctrl-C and schedulers ask all processes to stop; the training loop decides when, and needs batches till then."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
