"""The two times that a data set is gone through: to check its rows, and to write the good ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mmsafe.core.errors import UserError
from mmsafe.curation.preparation.streamed import TEST, TRAIN, Streamed, sides, whole
from mmsafe.data.data_source import BadRow, DataSource, Loaded
from mmsafe.data.example import Example
from mmsafe.data.row_source import RowSource


class Passes(Protocol):
    """A data set that can be gone through twice."""

    def check(self, refuse: Callable[[BadRow], None]) -> Iterator[Example]:
        """The examples, the first time; `refuse` is told of the rows that are left out."""

    def examples(self) -> Iterator[tuple[str, Example]]:
        """The same examples, each with its split; the second time."""


def passes(source: DataSource, splits: Sequence[str] | None, scratch: Path) -> Passes:
    """The published `splits` or, where they are None, what a training run would train and be evaluated on.

    Rows are streamed, where examples are not put together from several data sets or files; `scratch` is for notes.
    """
    chosen = None if splits is None else {name: published(source, name) for name in splits}
    if isinstance(source, RowSource) and source.categories is None:
        readings = sides(source) if chosen is None else [whole(one, name) for name, one in chosen.items()]
        return Streamed(readings, scratch)
    if chosen is None:
        return InMemory({TRAIN: source.train, TEST: source.holdout})
    return InMemory({name: one.test for name, one in chosen.items()})


def published(source: DataSource, split: str) -> RowSource:
    """The source of one of its published splits, of which nothing is held out."""
    if not isinstance(source, RowSource):
        raise UserError(f"splits: {type(source).__name__} has no published ones; leave it null for train and test")
    return replace(source, split=split, eval_path=None, eval_split=None, holdout_share=0)


class InMemory:
    """Examples that are read as a whole, but for their images."""

    def __init__(self, splits: Mapping[str, Callable[[], Loaded]]) -> None:
        self._splits = splits
        self._loaded: dict[str, Loaded] = {}

    def check(self, refuse: Callable[[BadRow], None]) -> Iterator[Example]:
        """See `Passes`."""
        self._loaded = {name: load() for name, load in self._splits.items()}
        for loaded in self._loaded.values():
            for row in loaded.bad_rows:
                refuse(row)
            yield from loaded.examples

    def examples(self) -> Iterator[tuple[str, Example]]:
        """See `Passes`."""
        for name, loaded in self._loaded.items():
            yield from ((name, example) for example in loaded.examples)
