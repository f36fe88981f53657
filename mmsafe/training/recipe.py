"""The values that a training takes: what is minimised, how, on what kind of batches, and where it leaves its traces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmsafe.core.settings import Checkpoint, EarlyStopping, Trainer
from mmsafe.data.corruption import Corruption
from mmsafe.objectives.base import Objective
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring.features import FeatureCache
from mmsafe.scoring.ways import Scoring
from mmsafe.training.optimizers.optimizer import Optimizer
from mmsafe.training.strategies.parallel import Parallel
from mmsafe.training.strategies.strategy import Auto, Strategy


@dataclass(frozen=True)
class Loss:
    """What is minimised: an objective of the log-probs that policy and reference give to responses."""

    objective: Objective
    scoring: Scoring
    reference: ReferencePolicy | None = None
    """None where the objective needs none."""
    features: FeatureCache | None = None
    """Keeps what a frozen vision tower made of an image."""
    starts_equal: bool = True
    """Whether the policy begins as the reference, so that the value of each term is known before the first step."""


@dataclass(frozen=True)
class Batching:
    """How examples become batches."""

    batch_size: int
    """Items of one device and micro-batch."""
    num_workers: int = 0
    group_by_length: bool = False
    max_tokens: int | None = None
    """Tokens of one device and micro-batch, which decide instead of `batch_size`."""
    max_length: int | None = None
    """Tokens of prompt and response together."""
    corruption: Corruption | None = None


@dataclass(frozen=True)
class Recipe:
    """How a policy is trained; `seed` decides the order of the items, and dropout."""

    optimizer: Optimizer
    trainer: Trainer
    batching: Batching
    seed: int
    strategy: Strategy = field(default_factory=Auto)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    @cached_property
    def parallel(self) -> Parallel:
        """What the strategy makes of the devices."""
        return self.strategy.parallel(self.trainer)


@dataclass(frozen=True)
class Output:
    """Where checkpoints and metrics go; without a folder or `checkpoint` there are no checkpoints."""

    folder: Path | None = None
    checkpoint: Checkpoint | None = None
    loggers: Sequence[Any] = ()
