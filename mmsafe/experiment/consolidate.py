"""A whole model from the checkpoint of a run that has not finished, in parts or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.run_record import about_run
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.vlm import VLM
from mmsafe.training.checkpoint_files import PREFIX, trained_weights
from mmsafe.training.checkpointing import current_checkpoint


def is_unfinished(folder: Path) -> bool:
    """Whether `folder` is a run folder with a checkpoint to continue from, and no model yet."""
    return not (folder / "model").exists() and current_checkpoint(folder) is not None


def consolidated(folder: Path) -> VLM:
    """The model of the last checkpoint in the run folder, its adapter merged; raises `UserError` if it does not fit."""
    path = current_checkpoint(folder)
    assert path is not None
    if not (about := about_run(folder)):
        raise UserError(f"{folder}: has no run.json, which says what model its checkpoint is of; name a run folder")
    config = recorded({**about["config"], "plan": None}, TrainConfig)
    vlm = config.model.load()
    add_lora(vlm, config.peft)
    trained = {name.removeprefix(PREFIX): tensor for name, tensor in trained_weights(path).items()}
    found: Any = vlm.model.load_state_dict(trained, strict=False)
    wanted = {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    if found.unexpected_keys or wanted - trained.keys():
        raise UserError(f"{path}: does not fit the model that the run was started with; was that changed since?")
    merge(vlm)
    return vlm
