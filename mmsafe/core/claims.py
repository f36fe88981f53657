"""Work that processes share through a folder: nothing is done twice, and what a dead one left is taken over."""

import json
import logging
import time
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from mmsafe.core.cache import OTHERWISE
from mmsafe.core.storage import needs_room

log = logging.getLogger(__name__)
WAIT = 0.5
"""Seconds between two looks at what other processes are working on."""


class Claims:
    """What every process at work in a folder is making; entered for as long as a process works there.

    A process holds the lock of a numbered place, which the operating system frees when the process dies; what it has
    claimed stands in a file beside. Both are read and changed under one lock of the folder, held for moments only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "claims"
        with needs_room(self.folder, OTHERWISE):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.place = 0
        """Number of this process's place: no other process at work here has it."""
        self._table = FileLock(self.folder / "table")

    def __enter__(self) -> Self:
        with needs_room(self.folder, OTHERWISE), self._table:
            self.place, self._own = next((n, lock) for n in count() if (lock := self._taken(n)))
            self._claim([])
        return self

    def __exit__(self, *error: object) -> None:
        with self._table:
            self._claimed(self.place).unlink()
            Path(self._own.lock_file).unlink()
            self._own.release()

    def missing(self, keys: Sequence[str], stored: Callable[[], Container[str]]) -> list[str]:
        """Those of `keys`, each once and in their order, that are not in `stored()`."""
        with self._table:
            made = stored()
        return [key for key in dict.fromkeys(keys) if key not in made]

    def shared(
        self,
        missing: Sequence[str],
        stored: Callable[[], Container[str]],
        size: int,
        done: Callable[[Sequence[str]], None] = lambda keys: None,
    ) -> Iterator[list[str]]:
        """Up to `size` of the first missing keys at a time that fall to this process; ends when all are in `stored()`.

        What is yielded is claimed until the next is asked for, by when `stored()` has to tell of it. `stored` is called
        while no other process begins or claims anything; `done` is told what is new in it, whoever made it.
        """
        waiting = False
        while True:
            with self._table:
                made = stored()
                done([key for key in missing if key in made])
                missing = [key for key in missing if key not in made]
                others = self._others() if missing else set()
                mine = [key for key in missing if key not in others][:size]
                self._claim(mine)
            if not missing:
                return
            if mine:
                yield mine
                continue
            if not waiting:
                log.info("waiting for other processes, which are making the rest")
            waiting = True
            time.sleep(WAIT)

    def _taken(self, place: int) -> FileLock | None:
        """The lock of a place, now held, if nobody holds it."""
        lock = FileLock(self.folder / f"{place}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    def _others(self) -> set[str]:
        """What living processes have claimed, this one left out."""
        places = {int(path.stem) for path in self.folder.glob("*.lock")} - {self.place}
        claimed: set[str] = set()
        for place in places:
            if (free := self._taken(place)) is None:
                claimed.update(json.loads(self._claimed(place).read_text()))
            else:
                free.release()
        return claimed

    def _claim(self, keys: Sequence[str]) -> None:
        with needs_room(self.folder, OTHERWISE):
            self._claimed(self.place).write_text(json.dumps(keys))

    def _claimed(self, place: int) -> Path:
        return self.folder / f"{place}.json"
