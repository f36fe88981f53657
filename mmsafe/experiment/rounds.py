"""Training in rounds: each samples from the policy that the one before left, and goes on from its weights."""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mmsafe.core.ranks import is_first
from mmsafe.core.run_record import METRICS, metrics_of
from mmsafe.data.example import digest
from mmsafe.experiment.job import complete
from mmsafe.models.loading import checkpoint_source
from mmsafe.models.model_source import ModelSource
from mmsafe.reporting.table import headline
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig

log = logging.getLogger(__name__)
CARRIED = ("train", "compile", "gradient_checkpointing")
"""Options of how a model is trained, which a round takes over beside those that go with its checkpoint."""


@dataclass(frozen=True)
class Round:
    """One training of several, or the only one."""

    config: TrainConfig
    """With the model that it starts from, and the seed of what it samples."""
    seed: int
    """Of the order of its items, and of dropout."""
    reference: ModelSource | None = None
    """The model of a reference that stays; None: the one that it starts from."""

    def after(self, folder: RunFolder) -> Round:
        """The round that goes on from what this one left in `folder`."""
        config = self.config
        source = checkpoint_source(str(folder.path / "model"), "rounds", config.model)
        carried = {name: getattr(config.model, name) for name in CARRIED if hasattr(config.model, name)}
        generation = replace(config.generation, seed=next_seed(config.generation.seed))
        after = replace(config, model=replace(source, **carried), generation=generation)
        return Round(after, next_seed(self.seed), None if config.reference.moves else self.reference or config.model)


def in_rounds(
    config: TrainConfig, train: Callable[[Round, RunFolder], dict[str, Any]], folder: RunFolder
) -> dict[str, Any]:
    """The metrics of the last round, and the main ones of those before as `round/1/…`.

    The last one is trained in `folder`, the others are runs in `folder/round-1`, …, each the same as the whole of a run
    with so many rounds. One that is finished is not trained again.
    """
    earlier: dict[str, Any] = {}
    this = Round(config, config.seed)
    for number in range(1, config.rounds):
        log.info("round %d of %d", number, config.rounds)
        before = _folder(folder, number)
        metrics = complete(before, partial(train, this))
        if is_first():
            clear(before, config)
            main = headline(metrics, before.declared(metrics)) | {"train/loss": metrics["train/loss"]}
            earlier |= {f"round/{number}/{name}": value for name, value in main.items()}
        while not (before.path / METRICS).exists():  # a collective would time out where a judge takes long
            time.sleep(1)
        gc.collect()  # the model of this round
        this = this.after(before)
    if config.rounds > 1:
        log.info("round %d of %d", config.rounds, config.rounds)
    return {**earlier, **train(this, folder)}


def clear(folder: RunFolder, config: TrainConfig) -> None:
    """Remove the checkpoints of a finished run, unless they are to be kept."""
    if not config.checkpoint.keep:
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)


def columns(folder: RunFolder, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of each round that is there, in order, by what a table calls it."""
    before = (_folder(folder, number).path for number in range(1, folder.config.get("rounds", 1)))
    return {path.name: metrics_of(path) for path in before if (path / METRICS).exists()} | {"trained": metrics}


def _folder(folder: RunFolder, number: int) -> RunFolder:
    """The folder of an earlier round, with the config of a run with so many rounds."""
    name = folder.config["name"]
    record = {**folder.config, "rounds": number, "name": name and f"{name} round {number}"}
    return RunFolder(folder.path / f"round-{number}", OmegaConf.create(record))


def next_seed(seed: int) -> int:
    """The seed of the round after one with this seed."""
    return int(digest([seed, "round"])[:8], 16)
