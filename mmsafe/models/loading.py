"""A model for a command: chosen by config or named by folder, on the device of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from mmsafe.core.config import TARGET, built
from mmsafe.core.errors import UserError
from mmsafe.core.precision import forward_dtype
from mmsafe.core.ranks import local_rank
from mmsafe.core.run_record import run_options
from mmsafe.core.settings import Peft
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.models.vlm import VLM

KEPT = ("append_eos", "image_aspect_ratio", "dtype", "attention", "allow_pickle", "chat_template")
"""Options that go with a checkpoint: of the run that made it, or else of the chosen model."""


def from_checkpoint(path: str | None, option: str, model: ModelSource) -> VLM:
    """The folder `path`, which `option` named, or where it is None the chosen model."""
    return model.load() if path is None else checkpoint_source(path, option, model).load()


def checkpoint_source(path: str, option: str, model: ModelSource) -> Pretrained:
    """The folder `path`, which `option` named, as a model with the options of the run that made it."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{option}={path}: no such folder; name a run folder or a model folder")
    made_by = run_options(folder, "model")
    options = asdict(model) | made_by
    kept = {name: options[name] for name in KEPT if name in options}
    if made_by and ((folder / "config.json").is_file() or (folder / "model" / "config.json").is_file()):
        kept["chat_template"] = None  # a run saves its template with the model, but not with an adapter
    source = built({TARGET: "mmsafe.models.model_source.Pretrained", "path": path, **kept}, option)
    assert isinstance(source, Pretrained)
    return source


def on_device(vlm: VLM, accelerator: str = "auto") -> VLM:
    """The model on the accelerator, unless that is `cpu` or there is none."""
    model: torch.nn.Module = vlm.model
    model.to(own_device(accelerator))
    return vlm


@contextmanager
def set_aside(vlm: VLM) -> Iterator[None]:
    """The device without the model for the block; a quantised model, which is small and may not be moved, stays."""
    model: torch.nn.Module = vlm.model
    device = vlm.model.device
    if device.type == "cpu" or getattr(model, "is_quantized", False):
        yield
        return
    model.to("cpu")
    torch.accelerator.empty_cache()
    try:
        yield
    finally:
        model.to(device)


def to_train(vlm: VLM, peft: Peft, precision: str, accelerator: str) -> VLM:
    """What training starts from, on its device; `peft=qlora` quantises it on the way, before anything is scored."""
    if peft.method != "qlora":
        return on_device(vlm, accelerator)
    from mmsafe.models.quantised import quantised

    return quantised(vlm, forward_dtype(precision, vlm.model.dtype), own_device(accelerator))


def own_device(accelerator: str) -> torch.device:
    """The device of this process; raises `UserError` if the machine has no such accelerator, or not so many."""
    device = torch.accelerator.current_accelerator(check_available=True)
    kind = "none" if device is None else {"cuda": "gpu"}.get(device.type, device.type)
    if accelerator not in ("auto", "cpu", kind):
        raise UserError(f"accelerator={accelerator}: this machine has none; use auto or cpu")
    if device is None or accelerator == "cpu":
        return torch.device("cpu")
    if (here := torch.accelerator.device_count()) <= local_rank():
        raise UserError(f"devices: more than the {here} that this machine has")
    return torch.device(device.type, local_rank())
