"""The model of a training run: loaded in parts where it is trained so, saved, and merged with its adapter."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from mmsafe.core.ranks import barrier, is_first
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.loading import checkpoint_source, on_device
from mmsafe.models.vlm import VLM
from mmsafe.runs.run_folder import RunFolder
from mmsafe.training.fit import Fitted
from mmsafe.training.strategies.parallel import Parallel, loaded_for

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig


def load_part(config: TrainConfig, parallel: Parallel) -> Any:
    """The model that is trained, loaded once more: each process its part, as `parallel` has set it up."""
    gc.collect()  # the whole model that the preparations used
    return _loaded(config, parallel).model


def keep(config: TrainConfig, parallel: Parallel, vlm: VLM | None, fitted: Fitted, folder: RunFolder) -> VLM:
    """Save what was trained; returns the model to evaluate, whole on every device.

    An adapter is saved by itself. It stays in the model that is returned, whose reference may be the policy without it,
    unless the weights were trained in parts: then the model is saved, merged, and read again.
    """
    if parallel.whole:
        assert vlm is not None
        if is_first():
            folder.save_trained(vlm)
        return vlm
    if is_first():
        vlm = _loaded(config, parallel)
        assert fitted.weights is not None
        vlm.model.load_state_dict(fitted.weights)
        folder.save_trained(vlm)
        keep_merged(vlm, folder)
    barrier()
    saved = loaded_for(parallel, checkpoint_source(str(folder.path), "checkpoint", config.model))
    return on_device(saved, config.trainer.accelerator)


def keep_merged(vlm: VLM, folder: RunFolder) -> None:
    """Make the adapter, where there is one, part of the weights, and save them."""
    if vlm.adapter is not None:
        merge(vlm)
        folder.save_model(vlm)


def _loaded(config: TrainConfig, parallel: Parallel) -> VLM:
    """The model that training starts from, with fresh adapters where `peft` trains such."""
    vlm = loaded_for(parallel, config.model)
    add_lora(vlm, config.peft)
    return vlm
