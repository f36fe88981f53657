"""Optimise a model on examples: data, module and trainer put together."""

from __future__ import annotations

import gc
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import rank, world_size
from mmsafe.core.settings import AdamW, Checkpoint, Trainer
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example
from mmsafe.models.llava import Llava
from mmsafe.objectives.base import Objective
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring.collate import Collator
from mmsafe.scoring.features import FeatureCache
from mmsafe.scoring.items import Items
from mmsafe.scoring.lengths import equal_items
from mmsafe.scoring.sampler import Part, alike
from mmsafe.scoring.slices import slices_of
from mmsafe.scoring.ways import Scoring
from mmsafe.training.checkpointing import Checkpoints, DirectIO, last_checkpoint
from mmsafe.training.module import PreferenceModule
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.stopping import StopAfterStep, plugins
from mmsafe.training.strategies.strategy import Auto, Strategy

log = logging.getLogger(__name__)
AUTO = Auto()
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
    strategy: Strategy = AUTO,
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
    load: Callable[[], Any] | None = None,
) -> PreferenceModule:
    """Train `llava.model` in place, continuing from `folder/checkpoints` where there is something to continue.

    With `load`, the model in hand is given up before training, and loaded in parts where the strategy wants that.
    Returns the module, whose `latest` holds the metrics of the last optimiser step.
    """
    pl.seed_everything(seed, workers=True, verbose=False)
    collator = scoring.collator(llava.encoder(), objective.groups, max_length, corruption)
    collator.features = features
    collator.slices = slices_of(examples, trainer.metrics_by)
    collator.blank_image = world_size() > 1 or not llava.source.train.language  # else a batch may have no gradient
    left_out = equal_items(examples, objective.groups, llava.encoder(), max_length)
    items = Items(examples, len(objective.groups), left_out)
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
        share=_share(items, collator, objective),
    )
    epoch = math.ceil(len(data.batches) / trainer.accumulate_grad_batches)  # optimiser steps
    steps = trainer.max_epochs * epoch if trainer.max_steps == -1 else trainer.max_steps
    parallel = strategy.parallel(trainer)
    device = llava.model.device
    if load is not None:
        llava.model = llava.adapter = None  # type: ignore[assignment]
        gc.collect()
    module = PreferenceModule(
        llava.model,
        objective,
        scoring,
        reference,
        optimizer,
        steps,
        parallel,
        features=features,
        load=load,
        slices=collator.slices,
    )
    saving = []
    if folder and checkpoint:
        saving = [Checkpoints(folder / "checkpoints", checkpoint.every_n_steps, strategy.name)]
    bar = [RichProgressBar(leave=True)] if trainer.progress_bar else []
    runner = pl.Trainer(
        max_epochs=math.ceil(steps / epoch),
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
        callbacks=[StepLog(data), *bar, *callbacks, *saving, StopAfterStep()],
        plugins=[DirectIO(), *plugins(), *parallel.plugins()],
        logger=list(loggers) or False,
        use_distributed_sampler=False,
        **parallel.lightning(batch_size),
    )
    module.train()
    runner.fit(module, datamodule=data, ckpt_path=last_checkpoint(folder, strategy.name))
    runner.strategy.optimizers = []  # their state is as large as the model, twice
    module.trainer = None
    del runner
    gc.collect()
    if not parallel.whole:
        return module
    module.zero_grad(set_to_none=True)
    return module.to(device).eval()  # Lightning leaves it on the CPU


def _share(items: Items, collator: Collator, objective: Objective) -> Callable[[int], int]:
    """How often an item counts in the mean of an optimiser step; tokens are counted when its step comes."""
    name = objective.tokens_of
    return alike if name is None else cache(lambda index: collator.tokens(items[index], name))


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
