"""Data sets of the Hugging Face hub, copied into the cache once, so that their rows stay the same."""

import os
from pathlib import Path

from mmsafe.core.cache import cache_dir
from mmsafe.core.errors import UserError
from mmsafe.core.options import HUB_NAME
from mmsafe.core.storage import needs_room


def is_here(path: Path | None) -> bool:
    """Whether a path can be read without a network."""
    return path is not None and os.path.exists(_local(path))


def fetched(path: Path) -> Path:
    """The path, or the folder of the hub's data set of that name, downloaded now if need be."""
    folder = _local(path)
    if folder == path or folder.is_dir():
        return folder
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client that the hub library uses

    unfinished = folder.with_name(f".{folder.name}")  # with which a download goes on that was killed
    try:
        commit = HfApi().dataset_info(str(path), timeout=10).sha
        with needs_room(unfinished):
            # Real files: in the hub's own cache they are links, which may not lead out of a folder of images.
            snapshot_download(str(path), repo_type="dataset", revision=commit, local_dir=unfinished)
            unfinished.rename(folder)
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise UserError(
            f"{path}: is not in {os.getcwd()}, and the hub cannot be reached or has no such data set "
            f"({type(error).__name__}); with a network, run `hf download --repo-type dataset {path} --local-dir DIR`"
        ) from error
    return folder


def _local(path: Path) -> Path:
    """The path itself or, where that is only the name of a data set, where this is kept."""
    is_name = not os.path.exists(path) and HUB_NAME.fullmatch(str(path))
    return cache_dir("hub") / "--".join(path.parts) if is_name else path
