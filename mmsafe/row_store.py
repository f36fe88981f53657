"""Rows on disk, found again by a key: appended as they are made, complete or not there."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mmsafe.cache import ADVICE
from mmsafe.errors import UserError
from mmsafe.storage import needs_room

Value = TypeVar("Value")


class RowStore(ABC, Generic[Value]):
    """One JSON line per value, with its key; every process at work in `folder` writes a file of its own.

    `place` is the number of this process's file. A line without its end is being written, or was cut by a kill.
    """

    stem: str
    """What the files are called."""
    key: ClassVar[str]
    """Under what name a row holds its key."""
    advice: ClassVar[str] = ADVICE
    """What to do where the disk is full."""

    def __init__(self, folder: Path, place: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / (f"{self.stem}-{place}.jsonl" if place else f"{self.stem}.jsonl")
        self.found: dict[str, Value] = {}
        self._taken_up: Counter[Path] = Counter()  # bytes of each file

    @abstractmethod
    def row(self, value: Value) -> Mapping[str, Any]:
        """What is written of a value, beside its key."""

    @abstractmethod
    def value(self, row: Mapping[str, Any]) -> Value:
        """The value of a row."""

    def read(self) -> dict[str, Value]:
        """All complete rows of all processes by key; truncates the own file after the last of them.

        Raises `UserError` naming the file if a line is damaged.
        """
        for path in sorted(self.folder.glob(f"{self.stem}*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._taken_up[path])
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._take_up(path, line)
        if self.path.exists():
            os.truncate(self.path, self._taken_up[self.path])
        return self.found

    def append(self, values: Iterable[tuple[str, Value]]) -> None:
        """Add values under their keys and wait until they are on the disk."""
        with needs_room(self.path, self.advice), self.path.open("a", encoding="utf-8") as file:
            for key, value in values:
                file.write(json.dumps({self.key: key, **self.row(value)}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _take_up(self, path: Path, line: bytes) -> None:
        try:
            row = dict(json.loads(line))
            key = row.pop(self.key)  # before the value is made of what is left
            self.found[key] = self.value(row)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: a line is damaged ({error}); delete the file, it is made again") from error
        self._taken_up[path] += len(line)
