"""The two times that a data set is gone through: to check its rows, and to write the good ones."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import DUPLICATE, UNANSWERED, BadRow, DataSource, Loaded
from mmsafe.data.example import Example, digest
from mmsafe.data.holdout import Groups, fields_of, held_out
from mmsafe.data.images import check_images
from mmsafe.data.records import Record
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImage
from mmsafe.data.row_source import ReadRow, RowSource
from mmsafe.data.tables import PORTION

log = logging.getLogger(__name__)
TRAIN, TEST = "train", "test"
Refuse = Callable[[BadRow], None]
"""Is told of each row that is left out."""


def passes(source: DataSource, splits: Sequence[str] | None, scratch: Path) -> Sequence[Whole | Streamed]:
    """The published `splits` or, where they are None, what a training run would train and be evaluated on.

    Rows are streamed, where examples are not put together from several data sets or files; `scratch` is for notes.
    """
    chosen = None if splits is None else {name: published(source, name) for name in splits}
    if not isinstance(source, RowSource) or source.categories is not None:
        if chosen is None:
            return [Whole(TRAIN, source.train), Whole(TEST, source.holdout)]
        return [Whole(name, one.test) for name, one in chosen.items()]
    if chosen is not None:
        return [Streamed(one, name, scratch) for name, one in chosen.items()]
    if not source.evaluates_others:
        return [Streamed(source, TRAIN, scratch, share=source.holdout_share)]
    return [Streamed(source, TRAIN, scratch, share=0), Streamed(source, TEST, scratch, others=True)]


def published(source: DataSource, split: str) -> RowSource:
    """The source of one of its published splits, of which nothing is held out."""
    if not isinstance(source, RowSource):
        raise UserError(f"splits: {type(source).__name__} has no published ones; leave it null for train and test")
    return replace(source, split=split, eval_path=None, eval_split=None, holdout_share=0)


class Whole:
    """A split that is read as a whole, but for its images."""

    def __init__(self, split: str, load: Callable[[], Loaded]) -> None:
        self._split, self._load = split, load
        self._examples: list[Example] = []

    def check(self, refuse: Refuse) -> Iterator[Example]:
        """The examples, the first time."""
        loaded = self._load()
        for row in loaded.bad_rows:
            refuse(row)
        self._examples = loaded.examples
        yield from loaded.examples

    def examples(self) -> Iterator[tuple[str, Example]]:
        """The same examples, each with its split; the second time."""
        return ((self._split, example) for example in self._examples)


class Streamed:
    """Rows of files for one split, of which a portion is in memory.

    With a `share` they are those to train on, and so much of them is for `TEST`; the `others` are what the source
    evaluates on.
    """

    def __init__(
        self, source: RowSource, split: str, scratch: Path, *, share: float | None = None, others: bool = False
    ) -> None:
        self._source, self._split, self._path = source, split, source.evaluated[0] if others else source.root
        self._records = partial(source.eval_records if others else source.records, streamed=True)
        self._to_train_on, self._share = share is not None, share or 0
        self._index = RowIndex(scratch / f"{split}.sqlite")

    def check(self, refuse: Refuse) -> Iterator[Example]:
        """The examples, the first time; raises `UserError` at the first bad row, unless the source skips those."""
        log.info("checking the rows of %s", self._path)
        skips, fields = self._source.on_bad == "skip", dict[str, None]()
        records = _noting_fields(self._records(), fields)
        splits: dict[str, ReadRow] = {}
        number, good, lacking = -1, 0, 0
        for number, (record, rows) in enumerate(self._judged(records)):
            if isinstance(rows, RowError):
                if not skips:
                    self._fail(record, rows, records, fields)
                refuse(BadRow(record.place(), rows.reason))
                continue
            kept = {name: row for name, row in rows.items() if not (self._to_train_on and self._source.lacks(row))}
            splits |= {row.split: row for row in kept.values() if isinstance(row.split, str)}
            for _ in range(len(rows) - len(kept)):
                lacking += 1
                refuse(BadRow(record.place(), UNANSWERED))
            good += len(kept)
            self._index.keep(number, kept)
            yield from (row.example for row in kept.values())
        self._source.refuse_other_fields(fields, self._path)
        if self._to_train_on:
            self._source.refuse_splits(splits.values())
        if lacking and not (skips and good):
            raise UserError(
                f"{self._path}: {lacking} rows are prompts without responses; name their split in splits=[…], or leave "
                "them out by data.on_bad=skip"
            )
        if not good:
            raise UserError(f"{self._path}: no row {'is in it' if number < 0 else 'can be used'}")
        if self._share == 1:
            raise UserError("data.holdout_share=1 leaves nothing to train on: lower it, or set data.eval_path")

    def examples(self) -> Iterator[tuple[str, Example]]:
        """The same examples, each with its split; the second time."""
        held = self._index.held_out(self._share)
        left = self._index.count()
        for number, (_, rows) in enumerate(self._outcomes(self._records())):
            for name, row in {}.items() if isinstance(rows, RowError) else rows.items():
                if self._index.is_kept(number, name):
                    left -= 1
                    yield TEST if held and self._index.group(row) in held else self._split, row.example
        if left:
            raise UserError(f"{self._path}: has changed since it was checked; run the same command again")

    def _outcomes(self, records: Iterator[Record]) -> Iterator[tuple[Record, dict[str, ReadRow] | RowError]]:
        for portion in _portions(records):
            yield from self._source.outcomes(portion, self._path)

    def _judged(self, records: Iterator[Record]) -> Iterator[tuple[Record, dict[str, ReadRow] | RowError]]:
        """Each record with its rows, or with what is wrong with them or their images."""
        for portion in _portions(records):
            outcomes = list(self._source.outcomes(portion, self._path))
            rows = [row for _, outcome in outcomes if not isinstance(outcome, RowError) for row in outcome.values()]
            shown = {image for row in rows for image in row.example.images if isinstance(image, RowImage)}
            errors = check_images(shown, self._source.check_images == "decode") if shown else {}
            for record, outcome in outcomes:
                if isinstance(outcome, RowError):
                    yield record, outcome
                elif not self._index.add(outcome):
                    yield record, DUPLICATE
                else:
                    damaged = [image for row in outcome.values() for image in row.example.images if image in errors]
                    yield record, RowError("damaged image", str(errors[damaged[0]])) if damaged else outcome

    def _fail(self, record: Record, error: RowError, others: Iterable[Record], fields: Mapping[str, None]) -> NoReturn:
        """Raise `UserError` for a bad row, or for a whole file of other rows than expected."""
        for _ in others:
            pass  # so that `fields` are those of all records
        self._source.refuse_other_fields(fields, self._path)
        raise UserError(f"{record.place()}: {error}; data.on_bad=skip drops and counts such rows")


class RowIndex:
    """What has to be known of all rows at once, on disk, so that memory does not grow with them.

    Each example's id with the number of its record, -1 if it is left out, and its group.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE rows (id TEXT PRIMARY KEY, record INTEGER, grp TEXT) WITHOUT ROWID; BEGIN"
        )
        self._groups = Groups()  # in memory, but of rows with several images only

    def add(self, ids: Collection[str]) -> bool:
        """Note ids, left out as yet; False if one of them is there already."""
        if any(self._record(name) is not None for name in ids):
            return False
        self._db.executemany("INSERT INTO rows VALUES (?, -1, NULL)", [(digest(name),) for name in ids])
        return True

    def keep(self, record: int, rows: Mapping[str, ReadRow]) -> None:
        """Rows of a record that are not left out."""
        kept = [(record, digest(self._groups.join(row.groups)), digest(name)) for name, row in rows.items()]
        self._db.executemany("UPDATE rows SET record = ?, grp = ? WHERE id = ?", kept)

    def is_kept(self, record: int, name: str) -> bool:
        """Whether the example of this id and record is one that was kept."""
        return self._record(name) == record

    def group(self, row: ReadRow) -> str:
        """Digest of the group of a row, when all rows are known."""
        return digest(self._groups.of(row.groups[0]))

    def count(self) -> int:
        """How many are kept."""
        return int(self._db.execute("SELECT count(*) FROM rows WHERE record >= 0").fetchone()[0])

    def held_out(self, share: float) -> set[str]:
        """Digests of the groups that `hold_out` chooses."""
        if share == 0:
            return set()
        joined = [(digest(group), digest(name)) for name, group in self._groups.joined()]
        self._db.executemany("UPDATE rows SET grp = ? WHERE grp = ?", joined)
        sizes = "SELECT grp, count(*) AS size FROM rows WHERE record >= 0 GROUP BY grp ORDER BY grp"
        groups, rows = self._db.execute(f"SELECT count(*), total(size) FROM ({sizes})").fetchone()
        return held_out(self._db.execute(sizes), groups, int(rows), share)

    def _record(self, name: str) -> int | None:
        row = self._db.execute("SELECT record FROM rows WHERE id = ?", (digest(name),)).fetchone()
        return None if row is None else int(row[0])


def _portions(records: Iterator[Record]) -> Iterator[list[Record]]:
    return iter(lambda: list(islice(records, PORTION)), [])


def _noting_fields(records: Iterable[Record], fields: dict[str, None]) -> Iterator[Record]:
    for record in records:
        fields |= dict.fromkeys(fields_of(record))
        yield record
