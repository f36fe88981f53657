"""What a checkpoint folder holds: its format, and its weights one file at a time."""

import json
import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Where weights are looked for, in this order."""
ADAPTER, ADAPTER_CONFIG = "adapter", "adapter_config.json"
"""The folder of a run's adapter, and the file by which PEFT knows one."""
FILES = ("*.safetensors", "*.json", "tokenizer.model", "chat_template.jinja")


class CheckpointError(Exception):
    """What is wrong with a checkpoint, in one line; whoever knows which option named it puts that in front."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises `CheckpointError` where it is missing or damaged, or holds NaN."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path.name} is no file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_finite)
    except FileNotFoundError as error:
        raise CheckpointError(f"has no {path.name}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path.name} may not be read; change its permissions") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is damaged")
    return value


def _finite(constant: str) -> float:
    """The value of `Infinity`, which configs hold; it is `NaN` that nobody wrote on purpose."""
    if constant == "NaN":
        raise ValueError("NaN")
    return float(constant)


def wanted_files(*, weights: bool = True, pickles: bool = False) -> list[str]:
    """Which files of a checkpoint to download, as patterns."""
    return [*(FILES if weights else FILES[1:]), *(["*.bin"] if pickles else [])]


class WeightFiles:
    """The weights of a folder.

    Raises `CheckpointError` where there are none, where a shard is missing or damaged, and where they are pickled and
    `allow_pickle` is not set; None: there is no such option. With it, only tensors are unpickled (`weights_only`):
    nothing in a file is run.
    """

    def __init__(self, folder: Path, *, allow_pickle: bool | None) -> None:
        if (folder / ADAPTER_CONFIG).is_file():  # `transformers` would load its base, wherever that is
            raise CheckpointError("holds a LoRA adapter and not a whole model; merge it into its base first")
        names = [name for name in WEIGHTS if (folder / name).is_file()][:1]
        if not names:
            extra = "; mm_projector.bin alone is no model" if (folder / "mm_projector.bin").is_file() else ""
            raise CheckpointError(f"holds no weights ({WEIGHTS[1]}, or shards with {WEIGHTS[0]}){extra}")
        if (index := names[0]).endswith(".json"):
            shards = read_json(folder / index).get("weight_map")
            names = list(shards.values()) if isinstance(shards, dict) else []
            if not shards or not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise CheckpointError(f"{index} is damaged")
        files = sorted(set(names))
        refuse_pickles(files, allowed=allow_pickle)
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise CheckpointError(f"{missing[0]} is missing ({len(missing)} of {len(files)} files of weights)")
        self.files = [folder / name for name in files]

    @cached_property
    def count(self) -> int:
        """How many numbers all weights hold; an upper limit where they are pickled."""
        return sum(_count(path) for path in self.files)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype in which every floating-point weight keeps its value."""
        dtype: torch.dtype | None = None
        for _, tensor in self.tensors():
            if tensor.is_floating_point():
                dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
        return dtype or torch.float32

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each weight, mapped from disk: what is not read costs no memory."""
        for path in self.files:
            yield from tensors_in(path)


def refuse_pickles(names: Iterable[str], *, allowed: bool | None) -> None:
    """Raise `CheckpointError` if one of these files is pickled, unless that is allowed; None: it cannot be."""
    pickled = [name for name in names if not name.endswith(".safetensors")]
    if pickled and not allowed:
        advice = "where you trust who made them, add model.allow_pickle=true, which reads tensors only"
        if allowed is None:
            advice = "save them as safetensors"
        raise CheckpointError(f"its weights are pickled ({pickled[0]}); {advice}")


def tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each weight of one file; raises `CheckpointError` where it is damaged."""
    with _undamaged(path):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a dict
                    yield name, file.get_tensor(name)
            return
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it does not hold named tensors")
        yield from state.items()


def _count(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size // 2
    with _undamaged(path), safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # not a dict


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path.name} is damaged or holds more than tensors, and is not read") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path.name} is damaged: {' '.join(str(error).split())[:120]}") from error


def first_few(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a list that may be long."""
    listed = sorted(names)
    return ", ".join(listed[:limit]) + (", …" if len(listed) > limit else "")
