"""How training stops when it is asked to: at the end of an optimiser step, on all processes after the same one."""

import logging
import os
import signal
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Callback

from mmsafe.core.endings import answer, end
from mmsafe.core.ranks import is_first

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """Training was asked to stop, and did between two optimiser steps: all there is can be saved."""


class StopAfterStep(Callback):
    """Raises `Stopped` at the end of the optimiser step in which any process got SIGTERM or SIGINT.

    A SIGINT that is not the first signal ends the process at once. Stands in for Lightning's handler, which speaks to
    the other processes from wherever it interrupts this one, and lets each stop by what it knows itself: they may wait
    for each other for ever.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal; 0 while there was none."""
        self.step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        answer(self._ask)  # Lightning has set its own by now, and puts back what it found when training ends

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return  # between the micro-batches of a step
        self.step = trainer.global_step
        number = self.received
        if trainer.world_size > 1:
            if self.step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return  # ranks wait for each other where a step is logged, and nowhere else
            mine = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if number:
            log.info("stopped by %s after step %d", signal.Signals(number).name, self.step)
            raise Stopped(128 + number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on a signal ends the process at once, and so does one that came after the last step."""
        answer(end)
        if self.received:
            end(self.received)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.received and signal.SIGINT in (self.received, number):
            end(number)
        if not self.received and is_first():
            os.write(2, b"stopping at the end of this step\n")  # a stream or logger may be what was interrupted
        self.received = self.received or number


def plugins() -> list[Any]:
    """For `pytorch_lightning.Trainer`: under SLURM, its environment without the checkpoints and requeues of its own.

    Those would be written in mid-step to the working directory, where every other job would find and load them.
    """
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if slurm else []
