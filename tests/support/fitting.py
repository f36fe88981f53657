"""One call that trains, for tests that name a few of its values only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsafe.core.settings import Checkpoint, EarlyStopping, Trainer
from mmsafe.data.example import Example
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring.features import FeatureCache
from mmsafe.scoring.ways import Scoring
from mmsafe.training.fit import Fitted, fit
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Output, Recipe
from mmsafe.training.validation import Validation


def fitted(
    llava: VLM,
    examples: Sequence[Example],
    *,
    objective: Objective,
    scoring: Scoring,
    reference: ReferencePolicy | None,
    optimizer: AdamW,
    trainer: Trainer,
    seed: int = 0,
    features: FeatureCache | None = None,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    held: Sequence[Example] = (),
    early: EarlyStopping | None = None,
    **batching: Any,
) -> Fitted:
    """Train `llava.model` in place on the CPU's one process, validating on what is `held` out."""
    loss = Loss(objective, scoring, reference, features)
    recipe = Recipe(optimizer, trainer, Batching(**batching), seed, early_stopping=early or EarlyStopping())
    data = PreferenceData(llava, examples, loss, recipe)
    validation = Validation(PreferenceData(llava, held, loss, recipe)) if held else None
    return fit(llava.model, data, loss, recipe, Output(folder, checkpoint, loggers), callbacks, validation)


def on_cpu(**options: Any) -> Trainer:
    """A loop in fp32 on the CPU, whatever this machine has."""
    return Trainer(**{"accelerator": "cpu", "precision": "32-true", "progress_bar": False, **options})


def untimed(row: Mapping[str, float], skipped: str | tuple[str, ...] = "perf/") -> dict[str, float]:
    """What does not depend on the clock."""
    return {name: value for name, value in row.items() if not name.startswith(skipped)}
