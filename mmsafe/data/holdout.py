"""Which rows are held out, where nothing else is evaluated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mmsafe.data.example import digest


def hold_out(groups: Sequence[str], share: float) -> set[str]:
    """Choose groups that together hold about `share` of the rows, by hash: the same on each machine, in any order.

    `groups` names the group of each row. With two or more groups and a share between 0 and 1, neither side is empty.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=digest)
    return held_out(((group, sizes[group]) for group in order), len(order), len(groups), share)


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
