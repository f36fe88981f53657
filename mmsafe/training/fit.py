"""Optimise a model on examples: data, module and trainer put together."""

from __future__ import annotations

import gc
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch import Tensor, nn

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Trainer
from mmsafe.training.checkpointing import Checkpoints, DirectIO, last_checkpoint
from mmsafe.training.module import PreferenceModule
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Loss, Output, Recipe
from mmsafe.training.stopping import StopAfterStep, plugins

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its start-up lines say nothing about the run
warnings.filterwarnings(
    "ignore", message=r".*(LeafSpec|does not have many workers|exists and is not empty|in eval mode at the start).*"
)  # not ours to mend


class Fitted(NamedTuple):
    """What a training leaves beside the weights that it changed in place."""

    latest: dict[str, float]
    """Metrics of the last optimiser step."""
    steps: int
    """Optimiser steps, with those of the runs that were continued."""
    weights: dict[str, Tensor] | None
    """Those of a policy that was trained in parts, put together on the first process."""


def fit(
    policy: nn.Module | Callable[[], nn.Module],
    data: PreferenceData,
    loss: Loss,
    recipe: Recipe,
    output: Output | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Train `policy` in place, continuing from `output.folder/checkpoints` where there is something to continue.

    A `policy` that is a function is called where each process can load its part of the weights. `data` was made with
    the same `loss` and `recipe`.
    """
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    output, parallel, trainer = output or Output(), recipe.parallel, recipe.trainer
    epoch = math.ceil(len(data.batches) / trainer.accumulate_grad_batches)  # optimiser steps
    steps = trainer.max_epochs * epoch if trainer.max_steps == -1 else trainer.max_steps
    module = PreferenceModule(policy, loss, recipe.optimizer, steps, parallel, data.slices).train()
    device = next((parameter.device for parameter in module.parameters()), None)
    runner = _runner(recipe, output, math.ceil(steps / epoch), [StepLog(data), *callbacks])
    runner.fit(module, datamodule=data, ckpt_path=last_checkpoint(output.folder, recipe.strategy.name))
    del runner
    gc.collect()  # the optimiser's state is as large as the model, twice
    if parallel.whole:
        module.zero_grad(set_to_none=True)
        module.to(device).eval()  # Lightning leaves it on the CPU, and the reference with it
    return Fitted(module.latest, module.trained_steps, module.weights)


def _runner(recipe: Recipe, output: Output, epochs: int, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's trainer; the order of callbacks is that of their hooks: a step is logged before it is saved."""
    trainer, strategy = recipe.trainer, recipe.parallel.lightning(recipe.batching.batch_size)
    bar = [RichProgressBar(leave=True)] if trainer.progress_bar else []
    saving = []
    if output.folder and output.checkpoint:
        checkpoints = output.folder / "checkpoints"
        saving = [Checkpoints(checkpoints, output.checkpoint.every_n_steps, recipe.strategy.name)]
    return pl.Trainer(
        max_epochs=epochs,
        max_steps=trainer.max_steps,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val or None,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        deterministic=trainer.deterministic,
        log_every_n_steps=trainer.log_every_n_steps,
        enable_progress_bar=trainer.progress_bar,
        enable_checkpointing=False,  # Lightning's own; see `Checkpoints`
        enable_model_summary=False,
        callbacks=[*callbacks, *bar, *saving, StopAfterStep()],
        plugins=[DirectIO(), *plugins(), *strategy.pop("plugins", [])],
        logger=list(output.loggers) or False,
        use_distributed_sampler=False,
        **strategy,
    )


class StepLog(Callback):
    """Logs a step before checkpoints are written: Lightning calls the module's own hook after them.

    Beside the metrics stand the seconds since the last step, the share of them spent waiting for data, and the share of
    padding in the lines of its batches.
    """

    def __init__(self, data: PreferenceData) -> None:
        self.data = data
        self.begin = self.waited = 0.0
        self.padding = self.positions = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PreferenceModule)
        now, waited = time.perf_counter(), self.data.waited
        seconds = now - self.begin
        self.padding += batch.padding
        self.positions += batch.input_ids.numel()
        timing = {"perf/seconds": seconds, "perf/data_wait": (waited - self.waited) / seconds}
        if pl_module.log_step(batch_idx, {**timing, "perf/padding": self.padding / self.positions}):
            self.begin, self.waited, self.padding, self.positions = now, waited, 0, 0


def check_accelerator(trainer: Trainer, attention: str = "sdpa") -> None:
    """Raise `UserError` if this machine lacks what `trainer` asks for, before anything is computed."""
    missing = {"gpu": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(trainer.accelerator):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: this machine has none; use auto or cpu")
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise UserError("model.attention=flex_attention: has no backward pass without a GPU; use sdpa")
    if trainer.precision == "16-mixed" and not torch.cuda.is_available():
        raise UserError("trainer.precision=16-mixed: needs a GPU; use auto, 32-true or bf16-mixed")
