"""Safetensors files of a cache, with a checksum of all that is in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from mmsafe.core.cache import ANOTHER, checksum, damaged


def save_file(tensors: Mapping[str, Tensor], entry: Path, about: Mapping[str, str]) -> None:
    """Write `tensors`, and what is to be known `about` them, to `entry`, which appears when it is complete."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    unfinished = entry.with_suffix(f".{uuid4().hex}")
    try:
        safetensors.save_file(whole, unfinished, {**about, "crc32": _checksum(whole, about, entry)})
        unfinished.replace(entry)
    finally:
        unfinished.unlink(missing_ok=True)


def load_file(entry: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and what is known about them; raises `UserError` if they are not what was saved as `entry`."""
    try:
        with safe_open(entry, "pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(entry, error) from error
    if about.pop("crc32", None) != _checksum(tensors, about, entry):
        raise damaged(entry, ANOTHER)
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str], entry: Path) -> str:
    names = sorted(tensors)
    kinds = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    head = json.dumps([sorted(about.items()), kinds]).encode()
    data = (tensors[name].flatten().view(torch.uint8).numpy().data for name in names)
    return checksum(f"{entry.parent.name}/{entry.name}", [head, *data])
