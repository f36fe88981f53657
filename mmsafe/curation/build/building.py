"""Stages one after the other, each from its file as far as that goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mmsafe.core.errors import UserError
from mmsafe.core.progress import progress
from mmsafe.curation.build.stage import BuildStage, Row, Site
from mmsafe.curation.build.stage_file import StageFile
from mmsafe.data.example import digest

log = logging.getLogger(__name__)
LOCK = ".build.lock"


def stage_files(stages: Mapping[str, BuildStage], site: Site) -> list[StageFile]:
    """The file of every stage; its fingerprint covers the stages before it, so a change redoes all that follow."""
    _refuse_foreign(site.folder)
    found: list[StageFile] = []
    fingerprint = ""
    for number, (name, stage) in enumerate(stages.items(), start=1):
        identity = stage.identity(site)
        fingerprint = digest([name, identity, fingerprint])
        found.append(StageFile(site.folder, number, name, identity, fingerprint))
    return found


def carry_out(stages: Mapping[str, BuildStage], site: Site) -> list[StageFile]:
    """Do what is left to do; returns the files, all complete. Raises `UserError` if a stage leaves no row."""
    files = stage_files(stages, site)
    for file, stage in zip(files, stages.values(), strict=True):
        if not file.complete:
            stage.check(site)
    rows: dict[str, Row] = {}
    for file, (name, stage) in zip(files, stages.items(), strict=True):
        if not file.complete:
            _make(stage, file, rows, site)
        rows = file.rows(rows or None)
        log.info("%s: %s", name, summary(file))
        if not rows:
            raise UserError(f"{file.path}: no row is left ({summary(file)}); change the options of {name}")
    return files


def summary(file: StageFile) -> str:
    """Counts of a stage in words."""
    dropped, remarks = file.dropped(), file.remarks()
    parts = [f"{len(file.outcomes()) - dropped.total()} of {len(file.outcomes())} kept"]
    for label, counts in (("dropped", dropped), ("remarks", remarks)):
        if counts:
            parts.append(f"{label}: " + ", ".join(f"{count} {reason}" for reason, count in counts.most_common()))
    return "; ".join(parts)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder for the block; raises `UserError` if another process builds there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"out={folder}: another process is building there; wait for it, or choose another") from error
    try:
        yield
    finally:
        lock.release()


def _make(stage: BuildStage, file: StageFile, rows: Mapping[str, Row], site: Site) -> None:
    if file.outdated:
        log.info("%s: options, or what comes before it, have changed; it is made again", file.name)
    file.begin()
    done = file.outcomes()
    missing = rows if stage.whole else {key: row for key, row in rows.items() if key not in done}
    with progress(file.name, len(missing)) as advance:
        for portion in stage.make(missing, site):
            file.add(portion)
            advance(len(portion))
    file.end()


def _refuse_foreign(folder: Path) -> None:
    """Unused images are deleted from the folder in the end: it must be ours."""
    if folder.is_file():
        raise UserError(f"out={folder}: is a file, where a folder is expected")
    if folder.is_dir() and not any(folder.glob("stage_1_*.jsonl")) and _entries(folder):
        raise UserError(f"out={folder}: holds other files; name a new folder, or one that was built before")


def _entries(folder: Path) -> Sequence[Path]:
    return [path for path in folder.iterdir() if path.name != LOCK]
