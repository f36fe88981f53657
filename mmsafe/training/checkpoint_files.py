"""How checkpoints are written and read: as tensors and plain values, of which nothing is executed."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from mmsafe.core.errors import UserError

HOLDS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step", "PreferenceData"}
HOLDS |= {"pytorch-lightning_version", "random", "latest"}
"""What is taken up of a checkpoint."""
PREFIX = "policy."
"""Of the names of weights there."""


class DirectIO(TorchCheckpointIO):
    """Writes where the checkpoint belongs; Lightning's own goes by way of memory and /tmp, which may not hold it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:  # by its name, `torch.save` could not tell that the disk is full
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Tensors and plain values only, whatever Lightning asks for: nothing in a run folder is executed."""
        with readable(Path(path)):
            checkpoint: dict[str, Any] = torch.load(path, map_location, weights_only=True)
            if not isinstance(checkpoint, dict) or not checkpoint.keys() >= HOLDS:
                raise ValueError("it is no checkpoint of a run")
            return checkpoint


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around reading the checkpoint `path` only: an unpickler raises whatever it stumbles over in a damaged one."""
    try:
        if path.is_file():
            with zipfile.ZipFile(path) as file:
                if part := file.testzip():  # `torch.load` does not look at the check sums
                    raise zipfile.BadZipFile(f"{part} has another check sum")
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UserError(
            f"{path}: cannot be read ({reason}); where it is damaged, delete {path.parent} to train from the beginning"
        ) from error


def load_trained(checkpoint: Path, module: Any) -> None:
    """Give a module of which training has ended the weights of `checkpoint` in place of its last ones."""
    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: is the best checkpoint and is gone; delete {checkpoint.parent} to train again")
    trained = trained_weights(checkpoint)
    if module.parallel.whole:
        module.load_state_dict(trained, strict=False)  # frozen weights are not in it
    elif module.weights:
        module.weights |= {name.removeprefix(PREFIX): weight for name, weight in trained.items()}


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
