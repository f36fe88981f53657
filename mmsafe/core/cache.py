"""The user's cache folder: what is expensive to make and safe to delete."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mmsafe.core.checksums import note, noted
from mmsafe.core.storage import needs_room

log = logging.getLogger(__name__)
VARIABLE = "MMSAFE_CACHE"
OTHERWISE = f" or set {VARIABLE}"
"""What else to do where nothing can be written."""


def cache_dir(kind: str) -> Path:
    """`$MMSAFE_CACHE/<kind>`, or the platform's user cache folder; created when missing."""
    root = os.environ.get(VARIABLE)
    folder = (Path(root).expanduser() if root else user_cache_path("mmsafe")) / kind
    with needs_room(folder, OTHERWISE):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(lock: FileLock, label: str) -> Iterator[None]:
    """Hold `lock`; says so if another process has to be waited for."""
    try:
        with needs_room(Path(lock.lock_file), OTHERWISE):
            lock.acquire(timeout=1)
    except Timeout:
        log.info("%s: waiting for another process that is making the same", label)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cached_folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key`, filled by `make` where it is missing.

    Two processes that need the same folder wait for one another, and a folder appears only when it is complete. Raises
    `UserError` if it is not as it was made.
    """
    parent = cache_dir(kind)
    folder = parent / key
    if folder.is_dir() and noted(folder):  # nothing is written, no lock either
        return folder
    with locked(FileLock(parent / f"{key}.lock"), f"{kind}/{key}"), needs_room(folder, OTHERWISE):
        if not folder.is_dir():
            _make(folder, make)
        elif not noted(folder):
            note(folder, folder)
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        make(unfinished)
        note(unfinished, folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
