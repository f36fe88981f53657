"""Our side of `benchmarks.step`: the real `mmsafe.training.fit.fit`, measured through a callback."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pytorch_lightning.callbacks import Callback

from benchmarks.sides import OBJECTIVES, Clock, Lap, Plan, Step
from mmsafe.core.settings import Trainer
from mmsafe.data.example import Example
from mmsafe.models.vlm import VLM
from mmsafe.reference.reference import Cached, Frozen, Reference
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix
from mmsafe.training.fit import fit
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Recipe

SCORINGS: dict[str, Scoring] = {"shared_prefix": SharedPrefix(), "padded": Padded()}
REFERENCES: dict[str, Reference] = {"cached": Cached(), "online": Frozen()}
PRECISION = "32-true"


class Watch(Callback):
    """Takes the times of our steps, and lets the other side make one step after each of them."""

    def __init__(self, other: Callable[[], object]) -> None:
        self.other = other
        self.steps: list[Step] = []
        self._clock = Clock()
        self._collate = Lap(0, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._clock.lap()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._collate = self._clock.lap()  # Lightning fetches a batch here, the next one

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        latest = pl_module.latest
        self.steps.append(Step(latest["train/loss"], latest["train/grad_norm"], self._collate, self._clock.lap()))
        self.other()
        self._clock.lap()


def train(
    plan: Plan, examples: Sequence[Example], other: Callable[[], object], llava: VLM | None = None
) -> tuple[list[Step], Lap]:
    """Train for one epoch, `other` being called after each step; returns our steps and the one-off reference pass."""
    llava, scoring, watch, spent = llava or plan.load(), SCORINGS[plan.scoring], Watch(other), [Lap(0, 0)]
    with empty_cache():
        reference = REFERENCES[plan.reference].policy(llava, scoring, PRECISION)
        prepare = reference.prepare

        def timed(*words: Any) -> None:
            clock = Clock()
            prepare(*words)
            spent.append(clock.lap())

        reference.prepare = timed  # type: ignore[method-assign]
        loss = Loss(OBJECTIVES[plan.objective], scoring, reference)
        trainer = Trainer(
            max_epochs=1,
            gradient_clip_val=plan.clip,
            precision=PRECISION,
            accelerator="cpu",
            deterministic=False,  # a setting of the whole process, and so TRL's too
            progress_bar=False,
        )
        optimizer = AdamW(lr=plan.lr, schedule="constant", warmup_steps=0, fused=True)
        recipe = Recipe(optimizer, trainer, Batching(plan.batch_size), plan.seed)
        fit(llava.model, PreferenceData(llava, examples, loss, recipe), loss, recipe, callbacks=[watch])
    return watch.steps, spent[-1]


@contextmanager
def empty_cache() -> Iterator[None]:
    """A cache of this run's own, so that the reference pass is made and not found."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, MMSAFE_CACHE=folder):
        yield
