"""Optimise a model on examples: data, module and trainer put together."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.strategies import DDPStrategy

from mmsafe.checkpointing import checkpoints, last_checkpoint
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example
from mmsafe.data.features import FeatureCache
from mmsafe.data.module import Items, PreferenceData
from mmsafe.data.sampler import Part
from mmsafe.errors import UserError
from mmsafe.models.llava import Llava
from mmsafe.module import PreferenceModule
from mmsafe.objectives.base import Objective
from mmsafe.precision import resolved
from mmsafe.ranks import rank, world_size
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring import Scoring
from mmsafe.settings import AdamW, Checkpoint, Trainer

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its start-up lines say nothing about the run
warnings.filterwarnings(
    "ignore", message=r".*(LeafSpec|does not have many workers|exists and is not empty|in eval mode at the start).*"
)  # not ours to mend


def fit(
    llava: Llava,
    examples: Sequence[Example],
    *,
    objective: Objective,
    scoring: Scoring,
    reference: ReferencePolicy | None,
    optimizer: AdamW,
    trainer: Trainer,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
    group_by_length: bool = False,
    max_length: int | None = None,
    corruption: Corruption | None = None,
    features: FeatureCache | None = None,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
) -> PreferenceModule:
    """Train `llava.model` in place, continuing from `folder/checkpoints/last.ckpt` where there is one.

    Returns the module, whose `latest` holds the metrics of the last optimiser step.
    """
    pl.seed_everything(seed, workers=True, verbose=False)
    collator = scoring.collator(llava.encoder(), objective.groups, max_length, corruption)
    collator.features = features
    collator.blank_image = world_size() > 1 or not llava.source.train.language  # else a batch may have no gradient
    items = Items(examples, len(objective.groups))
    if reference is not None:
        reference.prepare(items, collator, batch_size, num_workers)
    data = PreferenceData(
        items,
        collator if reference is None else reference.collate(collator),
        batch_size=batch_size,
        num_workers=num_workers,
        group_by_length=group_by_length,
        seed=seed,
        part=Part(rank(), world_size(), trainer.accumulate_grad_batches),
    )
    epoch = math.ceil(len(data.batches) / trainer.accumulate_grad_batches)  # optimiser steps
    steps = trainer.max_epochs * epoch if trainer.max_steps == -1 else trainer.max_steps
    module = PreferenceModule(llava.model, objective, scoring, reference, optimizer, steps, features)
    saving = [checkpoints(folder, checkpoint)] if folder and checkpoint else []
    bar = [RichProgressBar(leave=True)] if trainer.progress_bar else []
    runner = pl.Trainer(
        max_epochs=math.ceil(steps / epoch),
        max_steps=trainer.max_steps,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val or None,
        precision=resolved(trainer),  # type: ignore[arg-type]
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=_strategy(trainer),
        deterministic=trainer.deterministic,
        log_every_n_steps=trainer.log_every_n_steps,
        enable_progress_bar=trainer.progress_bar,
        enable_checkpointing=bool(saving),
        enable_model_summary=False,
        callbacks=[StepLog(data), *bar, *saving, *callbacks],
        logger=list(loggers) or False,
        use_distributed_sampler=False,
    )
    module.train()
    device = llava.model.device
    runner.fit(module, datamodule=data, ckpt_path=last_checkpoint(folder))
    runner.strategy.optimizers = []  # their state is as large as the model, twice
    module.zero_grad(set_to_none=True)
    return module.to(device).eval()  # Lightning leaves it on the CPU


def _strategy(trainer: Trainer) -> Any:
    """Every device holds the model; gradients are averaged as they are made."""
    if trainer.processes == 1:
        return "auto"
    on_cpu = trainer.accelerator == "cpu" or not torch.accelerator.is_available()
    return DDPStrategy(process_group_backend="gloo" if on_cpu else None, gradient_as_bucket_view=True)


class StepLog(Callback):
    """Logs a step before checkpoints are written: Lightning calls the module's own hook after them.

    Beside the metrics stand the seconds since the last step, and the share of them spent waiting for data.
    """

    def __init__(self, data: PreferenceData) -> None:
        self.data = data
        self.begin = self.waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PreferenceModule)
        now, waited = time.perf_counter(), self.data.waited
        seconds = now - self.begin
        if pl_module.log_step(batch_idx, {"perf/seconds": seconds, "perf/data_wait": (waited - self.waited) / seconds}):
            self.begin, self.waited = now, waited


def check_accelerator(trainer: Trainer, attention: str = "sdpa") -> None:
    """Raise `UserError` if this machine lacks what `trainer` asks for, before anything is computed."""
    missing = {"gpu": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(trainer.accelerator):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: this machine has none; use auto or cpu")
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise UserError("model.attention=flex_attention: has no backward pass without a GPU; use sdpa")
    if trainer.precision == "16-mixed" and not torch.cuda.is_available():
        raise UserError("trainer.precision=16-mixed: needs a GPU; use auto, 32-true or bf16-mixed")
