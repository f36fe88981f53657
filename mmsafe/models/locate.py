"""Finds the folder that a model's path means: on this machine, in a run, or on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import (
    ADAPTER,
    ADAPTER_CONFIG,
    WEIGHTS,
    CheckpointError,
    format_of,
    read_json,
    wanted_files,
)
from mmsafe.models.hub import reachable
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.pretrained import in_one_line


def located(path: str, *, allow_pickle: bool, weights: bool = True) -> Path:
    """The folder that `path` means; a model of the hub is downloaded, its pickles only if allowed.

    A run folder stands for the model in it, or else the adapter.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "model" / "config.json").exists():
            return folder / "model"
        only_adapter = (folder / ADAPTER / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()
        return folder / ADAPTER if only_adapter else folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"model.path={path}: no such folder")
    if not reachable(path):
        raise UserError(f"model.path={path}: {_not_here(path)}")
    try:
        wanted = wanted_files(weights=weights, pickles=weights and allow_pickle)
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be downloaded: {' '.join(str(error).split())[:200]}") from error


def format_at(source: CheckpointOptions) -> str:
    """`hf` or `original`."""
    assert source.path is not None
    with in_one_line(f"model.path={source.path}"):
        return format_of(located(source.path, allow_pickle=source.allow_pickle), allow_pickle=source.allow_pickle)[0]


def _not_here(name: str) -> str:
    return (
        "not on this machine, and the hub cannot be reached or has no such model; where there is a network run "
        f"`hf download {name} --local-dir DIR`, then pass model=llava_hf model.path=DIR"
    )


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).is_file() for name in WEIGHTS)


def base_of(folder: Path, chosen: str | None, *, allow_pickle: bool, weights: bool = True) -> str:
    """Folder or hub name of the model that the adapter in `folder` was trained on: `chosen`, or what it says itself.

    Raises `CheckpointError` where it says nothing, where there is no such folder, or where that holds an adapter too.
    """
    base = chosen or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError("is a LoRA adapter that does not say what it was trained on; name that by model.base")
    with about_base():
        place = located(base, allow_pickle=allow_pickle, weights=weights)
    if is_adapter(place):
        raise CheckpointError(f"its base {base} is a LoRA adapter too; export that first, and name the result")
    return str(place)


@contextmanager
def about_base() -> Iterator[None]:
    """What is wrong with a base, said as something that is wrong with its adapter."""
    try:
        yield
    except UserError as error:
        text = str(error).removeprefix("model.path=")
        raise CheckpointError(f"its base {text}; model.base names another") from error
