"""The user's cache folder: what is expensive to make and safe to delete, and the checksums by which damage is seen."""

import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.core.storage import needs_room

log = logging.getLogger(__name__)
VARIABLE = "MMSAFE_CACHE"
OTHERWISE = f" or set {VARIABLE}"
"""What else to do where nothing can be written."""
ANOTHER = "its checksum is another"
BLOCK = 1 << 20


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


def damaged(path: Path, why: object) -> UserError:
    """What a user reads where an entry of a cache is not what was written there."""
    return UserError(f"{path}: is damaged ({why}); delete it, it is made again")


def checksum(entry: str, parts: Iterable[bytes | memoryview]) -> str:
    """CRC-32 of `parts` and of the name of the entry that they belong to; about 2 GB a second."""
    value = zlib.crc32(entry.encode())
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


def note(content: Path, path: Path) -> None:
    """Write the checksum of a file or folder that is about to become `path`, beside that."""
    write_atomically(_beside(path), checksum(path.name, _bytes(content)))


def noted(path: Path) -> bool:
    """Whether a checksum was noted; raises `UserError` if it is not that of the file or folder."""
    if not _beside(path).exists():
        return False  # of an earlier version
    if _beside(path).read_bytes() != checksum(path.name, _bytes(path)).encode():
        raise damaged(path, ANOTHER)
    return True


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


def _bytes(content: Path) -> Iterator[bytes]:
    """The content of a file, or of all files of a folder with their names and sizes."""
    if not content.is_dir():
        yield from _blocks(content)
        return
    for path in sorted(content.rglob("*")):
        if path.is_file():
            yield f"{path.relative_to(content)} {path.stat().st_size}".encode()
            yield from _blocks(path)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
