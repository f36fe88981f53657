"""Validation while a policy trains: what a step measures, on items that are held out."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.core.progress import progress
from mmsafe.core.ranks import gathered
from mmsafe.generation.generate import evaluating
from mmsafe.training.metrics import means, over_ranks
from mmsafe.training.module import PreferenceModule
from mmsafe.training.preference_data import PreferenceData

Ask = Callable[[int], Mapping[str, float]]
"""Metrics of what the policy answers after so many steps; all ranks ask, and those of the first count."""


class Validation:
    """Measures the items of `held` with dropout off and no gradient, by the reference that was prepared for them."""

    def __init__(self, held: PreferenceData, ask: Ask | None = None) -> None:
        self.held = held
        self.ask = ask
        self.every = math.inf
        """Optimiser steps, which may be fractions of one; `fit` knows how many an epoch has."""

    def set_interval(self, every: float, epoch: int, steps: int) -> None:
        """Validate `every` so many steps, or that share of an `epoch` where it is a float.

        Raises `UserError` where that would be never.
        """
        self.every = every * epoch if isinstance(every, float) else every
        if self.every > steps:
            raise UserError(f"trainer.validate_every={every}: training ends before, after {steps} steps; lower it")

    def is_due(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return math.floor(step / self.every + 1e-9) > math.floor((step - 1) / self.every + 1e-9)

    def __call__(self, trainer: pl.Trainer, module: PreferenceModule) -> dict[str, float]:
        """`val/…` by the names of a step's metrics and of what is asked; the same on all ranks."""
        metrics = self._measured(trainer, module)
        if self.ask is not None:
            metrics |= gathered(self.ask(trainer.global_step))[0]
        return {f"val/{name.removeprefix('train/')}": value for name, value in metrics.items()}

    @torch.no_grad()
    def _measured(self, trainer: pl.Trainer, module: PreferenceModule) -> dict[str, float]:
        batches, window = self.held.batches, defaultdict[str, list[Tensor]](list)
        batches.epoch = batches.position = 0  # the same order each time: sums are rounded
        with (
            evaluating(module.policy),
            trainer.precision_plugin.val_step_context(),
            progress("validation", len(batches)) as advance,
        ):
            for batch in self.held.train_dataloader():
                batch = batch.to(module.device)
                scores = module(batch)
                measured = module.measured(batch, scores, module.objective(scores), self.held.slices)
                for name, value in measured.items():
                    window[name].append(value)
                advance(1)
        return means(over_ranks(window)[0])
