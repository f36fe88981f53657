"""A model for a command: chosen by config or named by folder, on the device of this process."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmsafe.errors import UserError
from mmsafe.models.llava import Llava
from mmsafe.models.source import ModelSource, PretrainedLlava
from mmsafe.ranks import local_rank

KEPT = ("append_eos", "image_aspect_ratio", "dtype", "attention", "allow_pickle")
"""Options that go with a checkpoint: of the run that made it, or else of the chosen model."""


def from_checkpoint(path: str | None, option: str, model: ModelSource) -> Llava:
    """The folder `path`, which `option` named, or where it is None the chosen model."""
    if path is None:
        return model.load()
    if not Path(path).expanduser().is_dir():
        raise UserError(f"{option}={path}: no such folder; name a run folder or a model folder")
    options = asdict(model) | _trained_with(Path(path).expanduser())
    kept = {name: options[name] for name in KEPT if name in options}
    return PretrainedLlava(path=path, **kept).load()


def _trained_with(folder: Path) -> dict[str, Any]:
    """The model options of the training run that a run folder, or the model folder in it, comes from."""
    for about in (folder / "run.json", folder.parent / "run.json"):
        if about.exists():
            return dict(json.loads(about.read_text())["config"].get("model", {}))
    return {}


def on_device(llava: Llava, accelerator: str = "auto") -> Llava:
    """The model on the accelerator, unless that is `cpu` or there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None and accelerator != "cpu":
        model: torch.nn.Module = llava.model
        model.to(torch.device(found.type, local_rank()))
    return llava
