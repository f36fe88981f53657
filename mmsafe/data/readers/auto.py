"""A set in the format that its rows have: of all data sets, the one that reads most of them."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import islice
from pathlib import Path

from omegaconf import OmegaConf
from pydantic import Field

from mmsafe.core.config import TARGET, conf_dir, options_class
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.data_source import PAIR, BadRow
from mmsafe.data.example import Example
from mmsafe.data.holdout import fields_of
from mmsafe.data.hub import is_here
from mmsafe.data.records import Record
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource
from mmsafe.data.splits import listed

log = logging.getLogger(__name__)
SAMPLE = 50
"""Rows that are looked at."""


@options
class Auto(RowSource):
    """Reads as the data set does that knows the rows' columns; its own options are those of all sets of rows."""

    get = "a data set in a known format and set data.path to its file or folder"
    readers: list[str] = Field(default_factory=list)

    @cached_property
    def reader(self) -> RowSource:
        """The data set that the rows are of; raises `UserError` if none or several may be meant."""
        options = {field.name: getattr(self, field.name) for field in fields(RowSource)}
        samples: dict[tuple[Path, ...], list[Record]] = {}
        scores: dict[str, tuple[int, RowSource]] = {}
        lacking: dict[str, str] = {}
        for name, cls in self._candidates().items():
            try:
                source = cls(**options)
                files = tuple(source.files())
                if files not in samples:
                    samples[files] = list(islice(source.records(streamed=True), SAMPLE))
                scores[name] = _score(source, samples[files]), source
            except (RowError, UserError) as error:
                lacking[name] = str(error)
        columns = dict.fromkeys(field for rows in samples.values() for record in rows for field in fields_of(record))
        if not columns:
            raise UserError(f"{self.path}: no row is in it" if samples else "; or ".join({*lacking.values()}))
        there = f"found: {listed(list(columns))}"
        best = [name for name, (score, _) in scores.items() if score == max(score for score, _ in scores.values())]
        if not best:
            forms = "; ".join(f"data={name}: {why}" for name, why in lacking.items())
            raise UserError(f"{self.path}: no row has the fields of a known set; {there}; expected: {forms}")
        if len(best) > 1:
            names = " and ".join(f"data={name}" for name in best)
            raise UserError(f"{self.path}: {there}, which {names} read alike; choose one")
        log.info("%s: read by data=%s", self.path, best[0])
        return scores[best[0]][1]

    def _candidates(self) -> dict[str, type[RowSource]]:
        """All data sets that are rows of files, by what chooses them."""
        shipped = {
            file.stem: OmegaConf.select(OmegaConf.load(file), TARGET) for file in (conf_dir() / "data").glob("*.yaml")
        }
        named = dict(sorted(shipped.items())) | dict(zip(self.readers, self.readers, strict=True))
        known = {name: options_class(target, "data.readers") for name, target in named.items()}
        return {name: cls for name, cls in known.items() if issubclass(cls, RowSource) and cls is not Auto}

    def brings(self) -> frozenset[str]:
        return self.reader.brings() if is_here(self.path) else PAIR

    def has_images(self) -> bool:
        return self.reader.has_images() if is_here(self.path) else True

    def text_only(self, example: Example) -> Example | None:
        return self.reader.text_only(example)

    def refuse_other_fields(self, fields: Collection[str], path: Path) -> None:
        self.reader.refuse_other_fields(fields, path)

    def _rows_of(self, record: Record, find: RowImages) -> dict[str, ReadRow]:
        return self.reader._rows_of(record, find)

    def _read(self, records: Sequence[Record], path: Path) -> tuple[list[ReadRow], list[BadRow]]:
        rows, bad = super()._read(records, path)
        images = {image for row in rows for image in row.example.images}
        turns = sum(len(row.example.turns) for row in rows)
        log.info("%s: %d rows, %d examples, %d images, %d turns", path, len(records), len(rows), len(images), turns)
        return rows, bad

    def _image_folders(self, file: Path, path: Path) -> list[Path]:
        return self.reader._image_folders(file, path)


def _score(source: RowSource, records: Sequence[Record]) -> int:
    """How many cells of the rows are read; raises `RowError` if most rows are none of this set."""
    score, errors = 0, []
    for record in records:
        try:
            score += len(source.recognised(fields_of(record), record.file))
        except RowError as error:
            errors.append(error)
    if errors and 2 * len(errors) >= len(records):
        raise errors[0]
    return score
