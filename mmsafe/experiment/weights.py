"""The weights that training starts from and ends with, where devices hold parts of them too."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from mmsafe.core.ranks import barrier, is_first
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava
from mmsafe.models.loading import checkpoint_source, on_device
from mmsafe.training.strategies.parallel import Parallel, loaded_for

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig
    from mmsafe.runs.run_folder import RunFolder
    from mmsafe.training.fit import Fitted


def load_part(config: TrainConfig, parallel: Parallel) -> Any:
    """The model that is trained, loaded once more: each process its part, as `parallel` has set it up."""
    gc.collect()  # the whole model that the preparations used
    return _loaded(config, parallel).model


def keep(config: TrainConfig, parallel: Parallel, llava: Llava | None, fitted: Fitted, folder: RunFolder) -> Llava:
    """Save what was trained; returns the model to evaluate, whole on every device.

    An adapter is saved by itself. It stays in the model that is returned, whose reference may be the policy without it,
    unless the weights were trained in parts: then the model is saved, merged, and read again.
    """
    if parallel.whole:
        assert llava is not None
        if is_first():
            folder.save_trained(llava)
        return llava
    if is_first():
        llava = _loaded(config, parallel)
        assert fitted.weights is not None
        llava.model.load_state_dict(fitted.weights)
        folder.save_trained(llava)
        keep_merged(llava, folder)
    barrier()
    saved = loaded_for(parallel, checkpoint_source(str(folder.path), "checkpoint", config.model))
    return on_device(saved, config.trainer.accelerator)


def keep_merged(llava: Llava, folder: RunFolder) -> None:
    """Make the adapter, where there is one, part of the weights, and save them."""
    if llava.adapter is not None:
        merge(llava)
        folder.save_model(llava)


def _loaded(config: TrainConfig, parallel: Parallel) -> Llava:
    """The model that training starts from, with fresh adapters where `peft` trains such."""
    llava = loaded_for(parallel, config.model)
    add_lora(llava, config.peft)
    return llava
