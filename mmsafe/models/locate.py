"""Finds the folder that a model's path means: on this machine, in a run, or on the hub."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client that the hub library uses

from mmsafe.models.checkpoints import ADAPTER, ADAPTER_CONFIG, WEIGHTS, CheckpointError, read_json, wanted_files
from mmsafe.models.formats import format_of
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.pretrained import about_part, in_one_line

OTHER_BASE = "; model.base names another"


def located(path: str, *, allow_pickle: bool, weights: bool = True) -> Path:
    """The folder that `path` means; a model of the hub is downloaded, its pickles only if allowed.

    A run folder stands for the model in it, or else the adapter. Raises `CheckpointError` where there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "model" / "config.json").exists():
            return folder / "model"
        only_adapter = (folder / ADAPTER / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()
        return folder / ADAPTER if only_adapter else folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise CheckpointError("no such folder")
    return downloaded(path, "pass model=hf model.path=DIR", weights=weights, pickles=weights and allow_pickle)


def downloaded(name: str, then: str, *, weights: bool, pickles: bool) -> Path:
    """Where a checkpoint of the hub is, downloaded now if need be; `then` is how to use one downloaded elsewhere."""
    if not reachable(name):
        raise CheckpointError(
            "not on this machine, and the hub cannot be reached or has no such model; where there is a network run "
            f"`hf download {name} --local-dir DIR`, then {then}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=wanted_files(weights=weights, pickles=pickles)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be downloaded: {' '.join(str(error).split())[:200]}") from error


def reachable(name: str) -> bool:
    """Whether `name` is in the local cache or can be had; loaders would ask for half a minute before they give up."""
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return True
        HfApi().model_info(name, timeout=10)
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return False
    return True


def format_at(source: CheckpointOptions) -> str:
    """`hf` or `original`."""
    assert source.path is not None
    with in_one_line(f"model.path={source.path}"):
        return format_of(located(source.path, allow_pickle=source.allow_pickle), allow_pickle=source.allow_pickle)[0]


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).is_file() for name in WEIGHTS)


def base_of(folder: Path, chosen: str | None, *, allow_pickle: bool, weights: bool = True) -> Path:
    """The folder of the model that the adapter in `folder` was trained on: `chosen`, or what it says itself.

    Raises `CheckpointError` where it says nothing, where there is no such folder, or where that holds an adapter too.
    """
    base = chosen or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError("is a LoRA adapter that does not say what it was trained on; name that by model.base")
    with about_part(f"its base {base}", OTHER_BASE):
        place = located(base, allow_pickle=allow_pickle, weights=weights)
    if is_adapter(place):
        raise CheckpointError(f"its base {base} is a LoRA adapter too; export that first, and name the result")
    return place
