"""Checksums of what caches hold: what is damaged, or stands in another entry's place, is never read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically

ANOTHER = "its checksum is another"
BLOCK = 1 << 20


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
