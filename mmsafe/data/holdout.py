"""What is evaluated on is not trained on: which rows are held out, and rows of several splits are kept apart."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.data.example import digest
from mmsafe.data.records import Record, read_records
from mmsafe.data.splits import listed


def hold_out(rows: Sequence[Sequence[str]], share: float) -> list[bool]:
    """Whether each row is among about `share` of them, chosen by hash: the same on each machine, in any order.

    `rows` has the names of each, and those that share a name are on one side. With two or more groups of such rows and
    a share between 0 and 1, neither side is empty.
    """
    groups = Groups()
    for names in rows:
        groups.join(names)
    row_groups = [groups.of(names[0]) for names in rows]
    sizes = Counter(row_groups)
    order = sorted(sizes, key=digest)
    held = held_out(((group, sizes[group]) for group in order), len(order), len(rows), share)
    return [group in held for group in row_groups]


class Groups:
    """Names of which a row has several, so that they stay on one side of a hold-out; all of them go by one."""

    def __init__(self) -> None:
        self._other: dict[str, str] = {}

    def join(self, names: Sequence[str]) -> str:
        """Note the names of a row; returns what they go by as yet."""
        first, *others = sorted({self.of(name) for name in names}, key=digest)
        self._other |= dict.fromkeys(others, first)
        return first

    def of(self, name: str) -> str:
        """What a name goes by: of all that belong together, the one whose digest is least."""
        while name in self._other:
            name = self._other[name]
        return name

    def joined(self) -> Iterator[tuple[str, str]]:
        """Names that go by another, each with that."""
        return ((name, self.of(name)) for name in self._other)


def held_out(sizes: Iterable[tuple[str, int]], groups: int, rows: int, share: float) -> set[str]:
    """The same choice among so many `groups`, which come with their sizes, in the order of their digests."""
    if share == 1:
        return {group for group, _ in sizes}
    if share == 0 or groups < 2:
        return set()
    room = min(max(round(share * rows), 1), rows - 1)
    held, smallest = set(), ("", rows + 1)
    for group, size in sizes:
        if size <= room:
            held.add(group)
            room -= size
        if size < smallest[1]:
            smallest = (group, size)
    return held or {smallest[0]}


def fields_of(record: Record) -> Mapping[str, Any]:
    """The fields of a record; none, if it is no object."""
    return record.value if isinstance(record.value, dict) else {}


def refuse_several(named: Iterable[object], path: Path | None) -> None:
    """Raise `UserError` if rows are of more than one of these splits, as far as they are texts."""
    splits = {name for name in named if isinstance(name, str)}
    if len(splits) > 1:
        raise UserError(
            f"{path}: has rows of several splits: set data.path to their file and data.split to one of "
            f"{listed(sorted(splits))}; data.ignored_columns=[split] reads all, whatever 'split' says"
        )


def refuse_both(file: Path, split: str | None, eval_split: str | None) -> None:
    """Raise `UserError` unless the rows of a file that is both trained and evaluated on say which is which."""
    if split is None or eval_split in (None, split):
        raise UserError(
            f"{file}: would be evaluated on and trained on, too: choose rows for each by data.split and "
            "data.eval_split, or leave data.eval_path and data.eval_split null to hold out a share"
        )
    refuse_unsplit(file, eval_split)


def refuse_unsplit(file: Path, eval_split: str) -> None:
    """Raise `UserError` unless rows of the file say of which split they are."""
    if not any("split" in fields_of(record) for record in read_records(file, "data.path", streamed=True)):
        raise UserError(
            f"data.eval_split={eval_split}: no row of {file} has a 'split', so all would be trained on, too; name the "
            "folder of all splits, or set data.eval_split=null to hold out a share"
        )
