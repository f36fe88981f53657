"""What has to be known of all rows at once, on disk, so that memory does not grow with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from mmsafe.data.example import digest
from mmsafe.data.holdout import held_out

TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE groups (name TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID;
CREATE TABLE left_out (number INTEGER PRIMARY KEY);
BEGIN;
"""


class RowIndex:
    """Ids of examples, sizes of their groups, and numbers of the records that are left out; never read again."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(TABLES)

    def has_any(self, ids: Collection[str]) -> bool:
        """Whether one of the ids is there."""
        found = "SELECT 1 FROM ids WHERE id = ?"
        return any(self._db.execute(found, (digest(name),)).fetchone() for name in ids)

    def add(self, ids: Collection[str]) -> None:
        """Ids that are not there yet."""
        self._db.executemany("INSERT INTO ids VALUES (?)", [(digest(name),) for name in ids])

    def count_group(self, group: str) -> None:
        """One more example of a group."""
        one_more = "INSERT INTO groups VALUES (?, 1) ON CONFLICT DO UPDATE SET size = size + 1"
        self._db.execute(one_more, (digest(group),))

    def leave_out(self, number: int) -> None:
        """A record that cannot be used."""
        self._db.execute("INSERT INTO left_out VALUES (?)", (number,))

    def left_out(self) -> Iterator[int]:
        """Numbers of records, in their order."""
        return (number for (number,) in self._db.execute("SELECT number FROM left_out ORDER BY number"))

    def held_out(self, share: float) -> set[str]:
        """Digests of the groups that `hold_out` chooses."""
        ((groups, rows),) = self._db.execute("SELECT count(*), total(size) FROM groups")
        sizes = self._db.execute("SELECT name, size FROM groups ORDER BY name")
        return held_out(sizes, groups, int(rows), share)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
