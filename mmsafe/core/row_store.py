"""Rows on disk, found again by a key: appended as they are made, complete or not there."""

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mmsafe.core.cache import ANOTHER, OTHERWISE, checksum
from mmsafe.core.errors import UserError
from mmsafe.core.storage import needs_room

Value = TypeVar("Value")
CHECKSUM = "crc32"
"""Under what name a row holds the checksum of all else in it; rows of earlier versions have none."""


class RowStore(ABC, Generic[Value]):
    """One JSON line per value, with its key; every process at work in `folder` writes a file of its own.

    `place` is the number of this process's file; None is for one that only reads. A line without its end is being
    written, or was cut by a kill.
    """

    stem: str
    """What the files are called."""
    key: ClassVar[str]
    """Under what name a row holds its key."""
    otherwise: ClassVar[str] = OTHERWISE
    """What else to do where nothing can be written."""
    remedy: ClassVar[str] = "delete that line or delete the file"
    """What to do with a damaged line."""

    def __init__(self, folder: Path, place: int | None = 0) -> None:
        with needs_room(folder, self.otherwise):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.place = place
        self.path = folder / (f"{self.stem}-{place}.jsonl" if place else f"{self.stem}.jsonl")
        self.kept: dict[str, Value] = {}
        self._taken_up: Counter[Path] = Counter()  # bytes of each file

    @abstractmethod
    def row(self, value: Value) -> Mapping[str, Any]:
        """What is written of a value, beside its key."""

    @abstractmethod
    def value(self, row: Mapping[str, Any]) -> Value:
        """The value of a row."""

    @property
    def entry(self) -> str:
        """What the rows belong to: those of another one are damaged rows here."""
        return self.folder.name

    def read(self) -> dict[str, Value]:
        """All complete rows of all processes by key; truncates the own file after the last of them.

        Raises `UserError` naming the line if one is damaged.
        """
        for path in sorted(self.folder.glob(f"{self.stem}*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._taken_up[path])
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._take_up(path, line)
        whole = self._taken_up[self.path]
        if self.place is not None and self.path.exists() and self.path.stat().st_size > whole:
            with needs_room(self.path, self.otherwise):
                os.truncate(self.path, whole)
        return self.kept

    def append(self, values: Iterable[tuple[str, Value]]) -> None:
        """Add values under their keys and wait until they are on the disk."""
        with needs_room(self.path, self.otherwise), self.path.open("a", encoding="utf-8") as file:
            for key, value in values:
                row = {self.key: key, **self.row(value)}
                file.write(json.dumps({**row, CHECKSUM: self._checksum(row)}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, path: Path, line: bytes) -> None:
        try:
            row = dict(json.loads(line))
            noted = row.pop(CHECKSUM, None)
            expected = self._checksum(row)
            key = row.pop(self.key)  # before the value is made of what is left
            value = self.value(row)
            if noted != expected and (noted is not None or row.keys() - self.row(value).keys()):
                raise ValueError(ANOTHER)
        except (ValueError, KeyError, TypeError) as error:
            with path.open("rb") as file:
                number = file.read(self._taken_up[path]).count(b"\n") + 1
            damage = f"a line is damaged (line {number}: {error}); {self.remedy}, it is made again"
            raise UserError(f"{path}: {damage}") from error
        self.kept[key] = value
        self._taken_up[path] += len(line)

    def _checksum(self, row: Mapping[str, Any]) -> str:
        return checksum(self.entry, [json.dumps(row).encode()])
