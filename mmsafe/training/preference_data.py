"""Training items and their resumable loader."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mmsafe.core.signals import STOP
from mmsafe.scoring.collate import guarded, opened
from mmsafe.scoring.items import Items
from mmsafe.scoring.sampler import ALONE, EpochBatches, Part, alike, text_length


class ResumableLoader(DataLoader[Any]):
    """A loader that Lightning takes for resumable, and so does not wind forward: `PreferenceData` knows the place."""

    def __init__(self, *args: Any, waited: Callable[[float], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self.tell = waited

    def __iter__(self) -> Any:
        """Batches; `waited` is told the seconds that each kept the training loop waiting."""
        batches = super().__iter__()
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.tell(time.perf_counter() - begin)
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

    def __init__(
        self,
        items: Items,
        collator: Any,
        *,
        batch_size: int,
        num_workers: int,
        group_by_length: bool,
        seed: int,
        part: Part = ALONE,
        share: Callable[[int], int] = alike,
    ) -> None:
        super().__init__()
        self.items = items
        self.collator = collator
        self.num_workers = num_workers
        self.waited = 0.0
        """Seconds that the training loop has waited for batches."""
        lengths = [text_length(items[i].example) for i in range(len(items))] if group_by_length else None
        self.batches = EpochBatches(len(items), batch_size, seed, lengths, part, share)

    def train_dataloader(self) -> ResumableLoader:
        """A generator of its own keeps the loader from drawing on the global one."""
        return ResumableLoader(
            self.items,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=partial(guarded, self.collator),
            generator=torch.Generator(),
            worker_init_fn=_leave_signals,
            waited=self._wait,
            pin_memory=torch.cuda.is_available(),
        )

    def _wait(self, seconds: float) -> None:
        self.waited += seconds

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches taken; saved with every checkpoint."""
        assert self.trainer is not None
        epoch, taken = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return {"epoch": epoch, "position": taken} if taken < len(self.batches) else {"epoch": epoch + 1, "position": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.batches.epoch, self.batches.position = state["epoch"], state["position"]


def _leave_signals(worker: int) -> None:
    """Ctrl-C and schedulers ask all processes to stop; the training loop decides when, and needs batches till then."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
