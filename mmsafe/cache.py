"""The user's cache folder: what is expensive to make and safe to delete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

VARIABLE = "MMSAFE_CACHE"


def cache_dir(kind: str) -> Path:
    """`$MMSAFE_CACHE/<kind>`, or the platform's user cache folder; created when missing."""
    root = os.environ.get(VARIABLE)
    folder = (Path(root).expanduser() if root else user_cache_path("mmsafe")) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key`, filled by `make` where it is missing.

    Two processes that need the same folder wait for one another, and a folder appears only when it is complete.
    """
    parent = cache_dir(kind)
    folder = parent / key
    with FileLock(parent / f"{key}.lock"):
        if not folder.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=parent))
            try:
                make(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder
