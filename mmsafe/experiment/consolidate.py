"""A whole model from the checkpoint of a run that has not finished, in parts or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.run_record import about_run
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava
from mmsafe.training.checkpointing import current_checkpoint, readable

PREFIX = "policy."


def is_unfinished(folder: Path) -> bool:
    """Whether `folder` is a run folder with a checkpoint to continue from, and no model yet."""
    return not (folder / "model").exists() and current_checkpoint(folder) is not None


def consolidated(folder: Path) -> Llava:
    """The model of the last checkpoint in the run folder, its adapter merged; raises `UserError` if it does not fit."""
    path = current_checkpoint(folder)
    assert path is not None
    if not (about := about_run(folder)):
        raise UserError(f"{folder}: has no run.json, which says what model its checkpoint is of; name a run folder")
    config = recorded(about["config"], TrainConfig)
    llava = config.model.load()
    add_lora(llava, config.peft)
    trained = {name.removeprefix(PREFIX): tensor for name, tensor in trained_weights(path).items()}
    found: Any = llava.model.load_state_dict(trained, strict=False)
    wanted = {name for name, parameter in llava.model.named_parameters() if parameter.requires_grad}
    if found.unexpected_keys or wanted - trained.keys():
        raise UserError(f"{path}: does not fit the model that the run was started with; was that changed since?")
    merge(llava)
    return llava


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, in fp32 where the optimiser keeps masters: frozen ones are not in it."""
    if checkpoint.is_file():
        with readable(checkpoint):
            state: dict[str, Tensor] = torch.load(checkpoint, "cpu", mmap=True, weights_only=True)["state_dict"]
            return state
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise UserError(f"{checkpoint}: was written by DeepSpeed; run pip install 'mmsafe[deepspeed]'") from error
    with readable(checkpoint):
        whole: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint), tag="checkpoint", exclude_frozen_parameters=True
        )
        return whole
