"""Checkpoints to continue from: when they are written, which one counts, and which one is taken up."""

import logging
import os
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, NotRequired

import pytorch_lightning as pl
import torch
from pydantic import Field, TypeAdapter, ValidationError
from pytorch_lightning.callbacks import Callback
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_json
from mmsafe.core.ranks import gathered, world_size
from mmsafe.core.storage import needs_room
from mmsafe.training.best import Best
from mmsafe.training.stopping import Stopped

log = logging.getLogger(__name__)
POINTER = "last.json"


class Pointer(TypedDict):
    """`last.json`."""

    checkpoint: Annotated[str, Field(pattern=r"^step=\d{1,18}\.ckpt$")]
    step: int
    strategy: str
    processes: int
    best: NotRequired[list[Annotated[int, Field(ge=0)]]]
    """Steps of the best checkpoints that are kept beside it."""


POINTERS = TypeAdapter(Pointer)


class Checkpoints(Callback):
    """Writes `folder/step=N.ckpt`, then the pointer `folder/last.json` to it, then deletes the one before.

    It does so every so many optimiser steps, where a validation was among the `best`, and when training was asked to
    stop; the best ones stay. DeepSpeed writes a folder. `strategy` is the one that the run trains with, by its name in
    `conf/strategy/`.
    """

    def __init__(self, folder: Path, strategy: str, best: Best) -> None:
        self.folder = folder
        self.strategy = strategy
        self.best = best
        self.step = 0
        """Last step that was seen."""
        self.saved = 0
        """Step of the last checkpoint."""
        self._random: list[list[torch.Tensor]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove what a killed process left, while the others wait."""
        if trainer.is_global_zero:
            self._remove_all_but(_kept(self.folder))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = self.saved = trainer.global_step
        _count_epoch(trainer)
        if self._random:
            for generator, state in zip(_generators(pl_module.device), self._random[trainer.global_rank], strict=True):
                generator.set_rng_state(state)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the random state of every process: dropout draws on it, and each process on its own."""
        checkpoint["random"] = gathered([generator.get_rng_state() for generator in _generators(pl_module.device)])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._random = checkpoint["random"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return  # between the micro-batches of a step
        self.step = trainer.global_step
        if self.step % self.best.options.every_n_steps == 0 or self.step in self.best.steps:
            self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """After any other exception, weights and place in the data may not agree."""
        if isinstance(exception, Stopped):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint of this moment, between two optimiser steps; all processes have to call it.

        Raises `UserError` if there is no room for it; the one before stays.
        """
        if trainer.global_step == self.saved:
            return
        path = at_step(self.folder, trainer.global_step)
        try:
            with needs_room(path):
                trainer.save_checkpoint(path)
                if trainer.is_global_zero:
                    self._complete(path, trainer)
        except UserError:
            if trainer.is_global_zero:
                _remove(path)
            raise
        self.saved = trainer.global_step

    def _complete(self, path: Path, trainer: pl.Trainer) -> None:
        _wait_for_disk(path)
        about = Pointer(
            checkpoint=path.name,
            step=trainer.global_step,
            strategy=self.strategy,
            processes=trainer.world_size,
            best=self.best.steps,
        )
        write_json(self.folder / POINTER, about)
        self._remove_all_but(_kept(self.folder))

    def _remove_all_but(self, kept: Set[Path]) -> None:
        for path in [*self.folder.glob("step=*"), *self.folder.glob(f".{POINTER}.*")]:
            if path not in kept:
                _remove(path)


def last_checkpoint(folder: Path | None, strategy: str) -> Path | None:
    """The checkpoint of an interrupted run in `folder`, or None.

    Raises `UserError` if it cannot be continued by this strategy with this number of processes.
    """
    checkpoint = current_checkpoint(folder) if folder else None
    if checkpoint is None:
        return None
    about = _read(checkpoint.parent / POINTER)
    if (about["strategy"], about["processes"]) != (strategy, world_size()):
        raise UserError(
            f"{checkpoint}: was written with strategy={about['strategy']} by {about['processes']} processes and cannot "
            f"be continued with strategy={strategy} by {world_size()}; start it as before, or choose another "
            "hydra.run.dir"
        )
    log.info("continuing from %s", checkpoint)
    return checkpoint


def current_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that an interrupted run in `folder` continues from, or None."""
    return _pointed(folder / "checkpoints")


def at_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is in a folder of checkpoints."""
    return folder / f"step={step}.ckpt"


def _kept(folder: Path) -> set[Path]:
    """The checkpoint that counts, and the best."""
    last = _pointed(folder)
    return (
        set() if last is None else {last, *(at_step(folder, step) for step in _read(folder / POINTER).get("best", []))}
    )


def _pointed(folder: Path) -> Path | None:
    """The checkpoint that counts; raises `UserError` if the pointer is damaged or points to nothing."""
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    path = folder / _read(pointer)["checkpoint"]
    if not path.exists():
        raise UserError(f"{pointer}: points to {path.name}, which is gone; delete it to train from the beginning")
    return path


def _read(pointer: Path) -> Pointer:
    try:
        return POINTERS.validate_json(pointer.read_bytes(), strict=True)
    except ValidationError as error:
        problem = "is damaged or was not written by mmsafe; delete it to train from the beginning"
        raise UserError(f"{pointer}: {problem}") from error


def _count_epoch(trainer: pl.Trainer) -> None:
    """Count the epoch that begins where the last one's end is continued; Lightning 2.6 forgets to.

    The next process to continue would take the place for another one, and train that epoch again.
    """
    epochs: Any
    for epochs in (trainer.fit_loop.epoch_progress.total, trainer.fit_loop.epoch_progress.current):
        if trainer.fit_loop.restarted_mid_epoch:
            epochs.ready = epochs.started = epochs.processed + 1


def _generators(device: torch.device) -> list[Any]:
    """Modules with the random generator of the CPU, and of `device` if that is not the CPU."""
    return [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]


def _wait_for_disk(path: Path) -> None:
    """Wait until `path`, with all that is in it, has been written."""
    for part in [*(path.rglob("*") if path.is_dir() else ()), path, path.parent]:
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
