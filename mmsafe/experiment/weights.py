"""The weights that training starts from and ends with, where devices hold parts of them too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmsafe.core.ranks import barrier, is_first
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava
from mmsafe.models.loading import checkpoint_source, on_device
from mmsafe.training.strategies.parallel import Parallel, loaded_for

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig
    from mmsafe.runs.run_folder import RunFolder
    from mmsafe.training.module import PreferenceModule


def add_adapter(config: TrainConfig, llava: Llava) -> None:
    """Put in what `peft` trains."""
    if config.peft.method != "none":
        add_lora(llava, config.peft)


def load_again(config: TrainConfig, parallel: Parallel, llava: Llava) -> Any:
    """Load what is trained once more into `llava`, each process its part; returns the model."""
    fresh = loaded_for(parallel, config.model)
    add_adapter(config, fresh)
    llava.model, llava.adapter = fresh.model, fresh.adapter
    return llava.model


def keep(config: TrainConfig, parallel: Parallel, llava: Llava, module: PreferenceModule, folder: RunFolder) -> Llava:
    """Save what was trained; returns the model to evaluate, whole on every device.

    An adapter is saved by itself. It stays in the model that is returned, whose reference may be the policy without it,
    unless the weights were trained in parts: then the model is saved, merged, and read again.
    """
    if parallel.whole:
        if is_first():
            folder.save_trained(llava)
        return llava
    if is_first():
        llava = loaded_for(parallel, config.model)
        add_adapter(config, llava)
        assert module.weights is not None
        llava.model.load_state_dict(module.weights)
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
