"""What a checkpoint folder holds: its format, and its weights one file at a time."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Format = Literal["hf", "original"]
NAMES: dict[Format, str] = {"hf": "Hugging Face's", "original": "the original LLaVA's"}
WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Where weights are looked for, in this order."""
ADAPTER, ADAPTER_CONFIG = "adapter", "adapter_config.json"
"""The folder of a run's adapter, and the file by which PEFT knows one."""
FILES = ("*.safetensors", "*.json", "tokenizer.model", "chat_template.jinja")
PICKLES = "*.bin"
MARKS: dict[Format, tuple[str, ...]] = {
    "hf": ("multi_modal_projector.", "model.multi_modal_projector.", "language_model.", "model.language_model."),
    "original": ("model.mm_projector.", "model.vision_tower.vision_tower.", "model.layers.", "model.embed_tokens."),
}
"""Beginnings of names of weights that only one format has."""


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


def wanted_files(*, weights: bool = True, pickles: bool = False) -> list[str]:
    """Which files of a checkpoint to download, as patterns."""
    return [*(FILES if weights else FILES[1:]), *([PICKLES] if pickles else [])]


def _finite(constant: str) -> float:
    """The value of `Infinity`, which configs hold; it is `NaN` that nobody wrote on purpose."""
    if constant == "NaN":
        raise ValueError("NaN")
    return float(constant)


class WeightFiles:
    """The weights of a folder.

    Raises `CheckpointError` where there are none, where a shard is missing or damaged, and where they are pickled and
    `allow_pickle` is not set; None: there is no such option. With it, only tensors are unpickled (`weights_only`):
    nothing in a file is run.
    """

    def __init__(self, folder: Path, *, allow_pickle: bool | None) -> None:
        present = [name for name in WEIGHTS if (folder / name).is_file()]
        if not present:
            extra = "; mm_projector.bin alone is no model" if (folder / "mm_projector.bin").is_file() else ""
            raise CheckpointError(f"holds no weights ({WEIGHTS[1]}, or shards with {WEIGHTS[0]}){extra}")
        self._folder, self._index = folder, present[0] if present[0].endswith(".json") else None
        files = sorted(set(self._map.values())) if self._index else present[:1]
        refuse_pickles(files, allowed=allow_pickle)
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise CheckpointError(f"{missing[0]} is missing ({len(missing)} of {len(files)} files of weights)")
        self.files = [folder / name for name in files]

    @cached_property
    def _map(self) -> dict[str, str]:
        """Name of each weight, and the file that it is in."""
        assert self._index is not None
        mapping = read_json(self._folder / self._index).get("weight_map")
        files = list(mapping.values()) if isinstance(mapping, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in files):
            raise CheckpointError(f"{self._index} is damaged")
        return dict(mapping or {})

    @cached_property
    def names(self) -> list[str]:
        """Names of all weights."""
        return list(self._map) if self._index else [name for name, _ in self.tensors()]

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


def tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each weight of one file; raises `CheckpointError` where it is damaged."""
    with _undamaged(path):
        yield from _read(path)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path.name} is damaged or holds more than tensors, and is not read") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path.name} is damaged: {' '.join(str(error).split())[:120]}") from error


def refuse_pickles(names: Iterable[str], *, allowed: bool | None) -> None:
    """Raise `CheckpointError` if one of these files is pickled, unless that is allowed; None: it cannot be."""
    pickled = [name for name in names if not name.endswith(".safetensors")]
    if pickled and not allowed:
        advice = "where you trust who made them, add model.allow_pickle=true, which reads tensors only"
        if allowed is None:
            advice = "save them as safetensors"
        raise CheckpointError(f"its weights are pickled ({pickled[0]}); {advice}")


def _count(path: Path) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size // 2
    with _undamaged(path), safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # not a dict


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                yield name, file.get_tensor(name)
        return
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("it does not hold named tensors")
    yield from state.items()


def format_of_config(config: dict[str, Any]) -> Format:
    """The format that `config.json` is of; raises `CheckpointError` where it is not LLaVA-1.5's."""
    kind = str(config.get("model_type"))
    if kind not in {"llava", "llava_llama"}:
        raise CheckpointError(f"holds a '{kind}' model, not a 'llava' one")
    is_hf = kind == "llava" and ("text_config" in config or "vision_config" in config)
    is_original = any(name.startswith("mm_") for name in config)
    if is_hf and is_original:
        raise CheckpointError("config.json mixes two formats: it has both text_config and mm_… entries")
    if not is_hf and not is_original:
        raise CheckpointError(
            f"config.json says '{kind}' but has neither text_config (Hugging Face format) nor mm_vision_tower "
            "(original LLaVA format)"
        )
    return "hf" if is_hf else "original"


def format_of(folder: Path, *, allow_pickle: bool) -> tuple[Format, WeightFiles]:
    """The format of config and weights alike, told by their keys.

    Raises `CheckpointError` naming what is there instead: an adapter, another model, a mixture.
    """
    if (folder / ADAPTER / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"holds a LoRA adapter in {ADAPTER}/ beside its weights, which may be in them or not; name "
            f"{folder / ADAPTER} to merge it, or move it away"
        )
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError("holds a LoRA adapter and not a whole model; merge it into its base first")
    form = format_of_config(read_json(folder / "config.json"))
    weights = WeightFiles(folder, allow_pickle=allow_pickle)
    forms = {other for other, marks in MARKS.items() if any(name.startswith(marks) for name in weights.names)}
    if forms == {"original"} and not any("mm_projector." in name for name in weights.names):
        raise CheckpointError("its weights are those of a plain language model: there is no model.mm_projector")
    if forms - {form}:
        others = " and ".join(NAMES[other] for other in sorted(forms))
        raise CheckpointError(f"is mixed: config.json is in {NAMES[form]} format, the weights are in {others}")
    return form, weights


def first_few(names: Iterable[str], limit: int = 3) -> str:
    """The first names of a list that may be long."""
    listed = sorted(names)
    return ", ".join(listed[:limit]) + (", …" if len(listed) > limit else "")
