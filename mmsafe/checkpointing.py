"""Checkpoints to continue from: when they are written, and which one is taken up."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from mmsafe.settings import Checkpoint

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Saves on an exception between two batches only: inside one, weights and place in the data do not agree."""

    def _should_save_on_exception(self, trainer: pl.Trainer) -> bool:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        return progress.ready == progress.completed and super()._should_save_on_exception(trainer)


def checkpoints(folder: Path, options: Checkpoint) -> ModelCheckpoint:
    """The callback that writes `folder/checkpoints`."""
    return Checkpoints(
        folder / "checkpoints",
        filename="step={step}",
        auto_insert_metric_name=False,
        every_n_train_steps=options.every_n_steps,
        save_last="link",
        save_top_k=1,
        monitor=None,
        save_on_exception=True,
        enable_version_counter=False,
    )


def last_checkpoint(folder: Path | None) -> str | None:
    """The checkpoint of an interrupted run in the same folder."""
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=_modified) if folder else []
    if not found:
        return None
    path = found[-1]
    log.info("continuing from %s", path)
    return str(path)


def _modified(path: Path) -> float:
    """Time of the last change; a kill may leave `last.ckpt` a link to a checkpoint that is gone."""
    return path.stat().st_mtime if path.exists() else -1.0
