"""Rows of files, of which a portion is in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mmsafe.core.errors import UserError
from mmsafe.curation.preparation.row_index import RowIndex
from mmsafe.data.data_source import DUPLICATE, UNANSWERED, BadRow
from mmsafe.data.example import Example, digest
from mmsafe.data.holdout import fields_of
from mmsafe.data.images import check_images
from mmsafe.data.records import Record
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImage
from mmsafe.data.row_source import ReadRow, RowSource
from mmsafe.data.tables import PORTION

log = logging.getLogger(__name__)
TRAIN, TEST = "train", "test"
Found = dict[str, ReadRow] | RowError


class Reading(NamedTuple):
    """Rows that are read from one path, all for one split, or a share of them for `TEST`."""

    source: RowSource
    path: Path
    records: Callable[[], Iterator[Record]]
    split: str
    share: float = 0
    trained_on: bool = False


def whole(source: RowSource, split: str) -> Reading:
    """All rows of the source's path."""
    assert source.path is not None  # __post_init__ has refused that
    return Reading(source, source.path, partial(source.records, streamed=True), split)


def sides(source: RowSource) -> list[Reading]:
    """What a training run would train on and be evaluated on."""
    train = whole(source, TRAIN)._replace(trained_on=True)
    if not source.evaluates_others:
        return [train._replace(share=source.holdout_share)]
    others = partial(source.eval_records, streamed=True)
    return [train, Reading(source, source.eval_path or train.path, others, TEST)]


class Streamed:
    """The examples of readings; what has to be known of all rows at once is in an index of each."""

    def __init__(self, readings: Sequence[Reading], scratch: Path) -> None:
        self._readings = [(one, RowIndex(scratch / f"{number}.sqlite")) for number, one in enumerate(readings)]

    def check(self, refuse: Callable[[BadRow], None]) -> Iterator[Example]:
        """See `Passes`; raises `UserError` at the first bad row, unless the source skips those."""
        for reading, index in self._readings:
            log.info("checking the rows of %s", reading.path)
            yield from _checked(reading, index, refuse)

    def examples(self) -> Iterator[tuple[str, Example]]:
        """See `Passes`."""
        for reading, index in self._readings:
            held, left_out = index.held_out(reading.share), index.left_out()
            skipped = next(left_out, None)
            outcomes = (pair for portion in _portions(reading.records()) for pair in _outcomes(reading, portion))
            for number, (record, found) in enumerate(outcomes):
                if number == skipped:
                    skipped = next(left_out, None)
                    continue
                if isinstance(found, RowError):
                    raise UserError(f"{record.place()}: has changed since it was checked; run the same command again")
                for row in _trained_on(reading, found).values():
                    yield TEST if held and digest(row.group) in held else reading.split, row.example
            index.close()


def _checked(reading: Reading, index: RowIndex, refuse: Callable[[BadRow], None]) -> Iterator[Example]:
    """The good examples of a reading."""
    source, fields = reading.source, dict[str, None]()
    splits: dict[object, ReadRow] = {}
    count = good = lacking = 0
    records = _noting_fields(reading.records(), fields)
    for portion in _portions(records):
        for record, found in _judged(reading, portion, index):
            if isinstance(found, RowError):
                if source.on_bad == "error":
                    _fail(reading, record, found, records, fields)
                index.leave_out(count)
                refuse(BadRow(record.place(), found.reason))
            else:
                kept = _trained_on(reading, found)
                splits |= {row.split: row for row in kept.values() if isinstance(row.split, str)}
                for _ in range(len(found) - len(kept)):
                    lacking += 1
                    refuse(BadRow(record.place(), UNANSWERED))
                good += len(kept)
                yield from _entered(kept, index, reading.share)
            count += 1
    source.refuse_other_fields(fields, reading.path)
    if reading.trained_on:
        source.refuse_splits(splits.values())
    if lacking and (source.on_bad == "error" or not good):
        raise UserError(
            f"{reading.path}: {lacking} rows are prompts without responses; name their split in splits=[…], or leave "
            "them out by data.on_bad=skip"
        )
    if not good:
        raise UserError(f"{reading.path}: no row {'can be used' if count else 'is in it'}")
    if reading.share == 1:
        raise UserError("data.holdout_share=1 leaves nothing to train on: lower it, or set data.eval_path")


def _judged(reading: Reading, records: Sequence[Record], index: RowIndex) -> Iterator[tuple[Record, Found]]:
    """Each record with its rows, or with what is wrong with them or their images."""
    outcomes = list(_outcomes(reading, records))
    rows = (row for _, found in outcomes if not isinstance(found, RowError) for row in found.values())
    shown = {row.example.image for row in rows if isinstance(row.example.image, RowImage)}
    errors = check_images(shown, reading.source.check_images == "decode") if shown else {}
    yield from ((record, _judgement(found, errors, index)) for record, found in outcomes)


def _judgement(found: Found, errors: Mapping[Any, UserError], index: RowIndex) -> Found:
    if isinstance(found, RowError):
        return found
    if index.has_any(found):
        return DUPLICATE
    index.add(found)
    damaged = (errors[row.example.image] for row in found.values() if row.example.image in errors)
    error = next(damaged, None)
    return found if error is None else RowError("damaged image", str(error))


def _trained_on(reading: Reading, found: Mapping[str, ReadRow]) -> Mapping[str, ReadRow]:
    """What a training run would take of a record's rows, where the reading is for one: no prompts alone."""
    return {name: row for name, row in found.items() if not (reading.trained_on and reading.source.lacks(row))}


def _entered(found: Mapping[str, ReadRow], index: RowIndex, share: float) -> Iterator[Example]:
    for row in found.values():
        if share:
            index.count_group(row.group)
        yield row.example


def _fail(
    reading: Reading, record: Record, error: RowError, others: Iterable[Record], fields: Mapping[str, None]
) -> NoReturn:
    """Raise `UserError` for a bad row, or for a whole file of other rows than expected."""
    for _ in others:
        pass  # so that `fields` are those of all records
    reading.source.refuse_other_fields(fields, reading.path)
    told = f"{record.place()}: {error}; data.on_bad=skip drops and counts such rows"
    raise UserError(" ".join(told.splitlines()))


def _outcomes(reading: Reading, records: Iterable[Record]) -> Iterator[tuple[Record, Found]]:
    return reading.source.outcomes(records, reading.path)


def _portions(records: Iterator[Record]) -> Iterator[list[Record]]:
    return iter(lambda: list(islice(records, PORTION)), [])


def _noting_fields(records: Iterable[Record], fields: dict[str, None]) -> Iterator[Record]:
    for record in records:
        fields |= dict.fromkeys(fields_of(record))
        yield record
