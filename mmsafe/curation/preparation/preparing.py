"""From a data set to a folder that is complete or not there."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig

from mmsafe.core.cache import cache_dir, locked
from mmsafe.core.config import resolved
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically, write_json
from mmsafe.core.progress import progress
from mmsafe.core.run_record import read_json
from mmsafe.core.secrets import masked
from mmsafe.core.storage import needs_room
from mmsafe.curation.preparation.card import Split, card, record
from mmsafe.curation.preparation.columns import Columns, Images, Survey
from mmsafe.curation.preparation.passes import Passes, passes, published
from mmsafe.curation.preparation.prepare_config import PrepareConfig
from mmsafe.curation.preparation.shards import Format, ShardWriter
from mmsafe.data.data_source import BadRow, DataSource
from mmsafe.data.example import Example, Fingerprint, digest
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource

log = logging.getLogger(__name__)
OF_LOADING = ("batch_size", "num_workers", "group_by_length")
"""Options of the data that change no row."""
ABOUT, CARD, REFUSED, SHARDS = "prepared.json", "README.md", "refused.jsonl", "data"


@dataclass(frozen=True)
class Request:
    """What is to be prepared, and how."""

    source: DataSource
    splits: list[str] | None
    format: Format
    images: Images
    max_shard_size: int
    """Bytes of a shard before compression."""
    settings: Mapping[str, Any]
    """All of this as the user said it."""

    def identity(self) -> dict[str, Any]:
        """What a prepared set depends on: the settings, and the files that are read, by size and time of change."""
        sources = [self.source] if self.splits is None else [published(self.source, split) for split in self.splits]
        found = {str(file): file.stat() for source in sources for file in source.files() if file.is_file()}
        files = {file: {"bytes": about.st_size, "modified": about.st_mtime_ns} for file, about in found.items()}
        where = self.source.located() if isinstance(self.source, RowSource) else {}
        settings = {**self.settings, "data": {**self.settings.get("data", {}), **where}}
        return {"settings": settings, "files": files}


def requested(config: PrepareConfig, cfg: DictConfig) -> Request:
    """What `mmsafe.prepare` is asked for by its options, and by the config that they were read from."""
    settings = {key: value for key, value in resolved(cfg).items() if key != "out"}
    settings["data"] = {key: value for key, value in settings["data"].items() if key not in OF_LOADING}
    return Request(config.data, config.splits, config.format, config.images, config.max_shard_size, settings)


def prepare(request: Request, out: Path) -> None:
    """Write the set to `out`, which appears when it is complete; one that is finished is left alone.

    Raises `UserError` if `out` holds anything else, a set of other options or of files that have changed since, too.
    """
    target = out.expanduser().absolute()
    if inside := next((one for one in _folders(request.source) if target.is_relative_to(one.absolute())), None):
        raise UserError(f"out={out}: is in {inside}, whose files are read; name a folder elsewhere")
    identity = masked(json.loads(json.dumps(request.identity(), default=str)))
    with locked(FileLock(cache_dir("prepare") / f"{digest(str(target))}.lock"), f"out={out}"):
        if _is_finished(target, identity):
            log.info("%s is finished", out)
            return
        unfinished = target.parent / f".{target.name}.unfinished"  # what a kill left there is begun anew
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with needs_room(target):
                (unfinished / SHARDS).mkdir(parents=True)
                _fill(unfinished, request, identity)
                unfinished.replace(target)  # over an empty folder, or over nothing
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    log.info("wrote %s", out)


def _folders(source: DataSource) -> Iterator[Path]:
    """Where all tables, at any depth, are of the data set."""
    if isinstance(source, Mix):
        for part in source.parts.values():
            yield from _folders(part)
    if isinstance(source, RowSource):
        yield from (path for path in (source.path, source.eval_path) if path is not None and path.is_dir())


def _is_finished(target: Path, identity: Mapping[str, Any]) -> bool:
    """Whether this set is there; raises `UserError` if anything else is."""
    if (target / ABOUT).is_file():
        found = read_json(target / ABOUT)
        if all(found.get(key) == value for key, value in identity.items()):
            return True
        raise UserError(
            f"out={target}: holds a set of other options, or of files that have changed since; name another"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"out={target}: is there already and not empty; name a new folder")
    return False


def _fill(folder: Path, request: Request, identity: Mapping[str, Any]) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    data = passes(request.source, request.splits, scratch)
    columns, count, refused = _checked(data, request, folder / REFUSED)
    splits = _written(data, request, columns, count, folder / SHARDS)
    shutil.rmtree(scratch)
    about = record(identity, splits, columns, refused)
    write_atomically(folder / CARD, card(about))
    write_json(folder / ABOUT, about)
    told = ", ".join(f"{split['rows']} of {name}" for name, split in splits.items())
    log.info("%s; refused: %s", told, dict(refused) or "none")


def _checked(data: Passes, request: Request, refusals: Path) -> tuple[Columns, int, Counter[str]]:
    """The columns and number of the good examples, and why others are refused; which ones stands in `refusals`."""
    survey, refused = Survey(), Counter[str]()

    def refuse(row: BadRow) -> None:
        refused[row.reason] += 1
        with refusals.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row._asdict()) + "\n")

    for example in data.check(refuse):
        survey.add(example, request.images)
    return survey.columns(request.source.brings()), survey.count, refused


def _written(data: Passes, request: Request, columns: Columns, count: int, folder: Path) -> dict[str, Split]:
    schema = columns.features().arrow_schema
    writers: dict[str, _SplitWriter] = {}
    with progress("writing", count) as advance:
        for name, example in data.examples():
            if name not in writers:
                shards = ShardWriter(folder, name, schema, request.format, request.max_shard_size)
                writers[name] = _SplitWriter(shards)
            writers[name].write(example, columns.row(example, request.images))
            advance(1)
    return {name: writer.close() for name, writer in writers.items()}


class _SplitWriter:
    """The shards of a split, and what is told of them."""

    def __init__(self, shards: ShardWriter) -> None:
        self._shards = shards
        self._fingerprint = Fingerprint()
        self._rows = 0

    def write(self, example: Example, row: dict[str, Any]) -> None:
        self._shards.write(row)
        self._fingerprint.add(example)
        self._rows += 1

    def close(self) -> Split:
        files: Iterable[Path] = self._shards.close()
        return Split(
            rows=self._rows,
            shards=[f"{SHARDS}/{file.name}" for file in files],
            bytes=sum(file.stat().st_size for file in files),
            fingerprint=self._fingerprint.value(),
        )
