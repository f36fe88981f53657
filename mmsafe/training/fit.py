"""Optimise a model on examples: data, module and trainer put together."""

import gc
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Checkpoint, Trainer
from mmsafe.training.best import Best
from mmsafe.training.checkpoint_files import DirectIO, load_trained
from mmsafe.training.checkpointing import Checkpoints, at_step, last_checkpoint
from mmsafe.training.module import PreferenceModule
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Loss, Output, Recipe
from mmsafe.training.step_log import StepLog
from mmsafe.training.stopping import StopAfterStep, plugins
from mmsafe.training.validation import Validation

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
    best: Best
    """What validations found."""


def fit(
    policy: nn.Module | Callable[[], nn.Module],
    data: PreferenceData,
    loss: Loss,
    recipe: Recipe,
    output: Output | None = None,
    callbacks: Sequence[Callback] = (),
    validation: Validation | None = None,
) -> Fitted:
    """Train `policy` in place, continuing from `output.folder/checkpoints` where there is something to continue.

    A `policy` that is a function is called where each process can load its part of the weights. `data` was made with
    the same `loss` and `recipe`.
    """
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    output, parallel, trainer = output or Output(), recipe.parallel, recipe.trainer
    epoch = math.ceil(len(data.batches) / trainer.accumulate_grad_batches)  # optimiser steps
    steps = trainer.max_epochs * epoch if trainer.max_steps == -1 else trainer.max_steps
    if validation is not None and trainer.validate_every is not None:
        validation.set_interval(trainer.validate_every, epoch, steps)
    module = PreferenceModule(policy, loss, recipe.optimizer, steps, parallel, data.slices).train()
    device = next((parameter.device for parameter in module.parameters()), None)
    best = Best(output.checkpoint or Checkpoint(), recipe.early_stopping)
    step_log = StepLog(data, trainer.progress_bar, validation, best)
    runner = _runner(recipe, output, math.ceil(steps / epoch), [step_log, *callbacks], best)
    runner.fit(module, datamodule=data, ckpt_path=last_checkpoint(output.folder, recipe.strategy.name))
    del runner
    gc.collect()  # the optimiser's state is as large as the model, twice
    if parallel.whole:
        module.zero_grad(set_to_none=True)
        module.to(device).eval()  # Lightning leaves it on the CPU, and the reference with it
    if best.options.load_best and best.steps and output.folder:
        load_trained(at_step(output.folder / "checkpoints", best.steps[0]), module)
    return Fitted(module.latest, module.trained_steps, module.weights, best)


def _runner(recipe: Recipe, output: Output, epochs: int, callbacks: list[Callback], best: Best) -> pl.Trainer:
    """Lightning's trainer; the order of callbacks is that of their hooks: a step is logged before it is saved."""
    trainer, strategy = recipe.trainer, recipe.parallel.lightning(recipe.batching.batch_size)
    saving = []
    if output.folder and output.checkpoint:
        saving = [Checkpoints(output.folder / "checkpoints", recipe.strategy.name, best)]
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
        enable_progress_bar=False,  # Lightning's own counts the batches of an epoch; see `StepLog`
        enable_checkpointing=False,  # Lightning's own; see `Checkpoints`
        enable_model_summary=False,
        callbacks=[*callbacks, *saving, StopAfterStep()],
        plugins=[DirectIO(), *plugins(), *strategy.pop("plugins", [])],
        logger=list(output.loggers) or False,
        use_distributed_sampler=False,
        **strategy,
    )


def check_accelerator(trainer: Trainer, attention: str = "sdpa") -> None:
    """Raise `UserError` if this machine lacks what `trainer` asks for, before anything is computed."""
    missing = {"gpu": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(trainer.accelerator):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: this machine has none; use auto or cpu")
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise UserError("model.attention=flex_attention: has no backward pass without a GPU; use sdpa")
    if trainer.precision == "16-mixed" and not torch.cuda.is_available():
        raise UserError("trainer.precision=16-mixed: needs a GPU; use auto, 32-true or bf16-mixed")
