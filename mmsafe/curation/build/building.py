"""What `mmsafe.build` does: stages one after the other, each from its file as far as that goes."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.options import OutputPath, options
from mmsafe.core.progress import progress
from mmsafe.curation.build.stage import BuildStage, Row, Site
from mmsafe.curation.build.stage_file import StageFile
from mmsafe.data.example import digest
from mmsafe.models.model_source import ModelSource
from mmsafe.runs.run_context import RunContext

log = logging.getLogger(__name__)
LOCK = ".build.lock"
STAGES = ("conversations", "entities", "entity_image", "substitution", "rewording", "quality")
"""In their order; any class of the right kind can take the place of one, by its `_target_`."""


@options
class BuildConfig:
    """`conf/build.yaml`, typed."""

    out: OutputPath
    dry_run: bool
    conversations: BuildStage
    entities: BuildStage
    entity_image: BuildStage
    substitution: BuildStage
    rewording: BuildStage
    quality: BuildStage
    model: ModelSource


def build(config: BuildConfig, run: RunContext) -> None:
    """Build the set in `config.out`, from where the last call ended; or show what that would ask."""
    from mmsafe.curation.build.preference_set import write_set

    out = config.out
    stages: dict[str, BuildStage] = {name: getattr(config, name) for name in STAGES}
    if config.dry_run:
        with nullcontext(out) if out.exists() else tempfile.TemporaryDirectory() as folder, _alone_in(Path(folder)):
            _show_plan(stages, Site(Path(folder), config.model), f"dry run: {out}")
        return
    site = Site(out, config.model)
    with _alone_in(out):
        write_set(site, carry_out(stages, site))
    show_results(out, "python -m mmsafe.inspect data=mmsafe_po data.path={}")


def carry_out(stages: Mapping[str, BuildStage], site: Site) -> list[StageFile]:
    """Do what is left to do; returns the files, all complete. Raises `UserError` if a stage leaves no row."""
    files = _stage_files(stages, site)
    for file, stage in zip(files, stages.values(), strict=True):
        if not file.complete:
            stage.check(site)
    rows: dict[str, Row] = {}
    for file, stage in zip(files, stages.values(), strict=True):
        if not file.complete:
            if file.outdated:
                log.info("%s: options, or what comes before it, have changed; it is made again", file.name)
            file.begin()
            missing = _missing(stage, file, rows)
            with progress(file.name, len(missing)) as advance:
                for portion in stage.make(missing, site):
                    file.add(portion)
                    advance(len(portion))
            file.end()
        rows = file.rows(rows or None)
        log.info("%s: %s", file.name, _summary(file))
        if not rows:
            raise UserError(f"{file.path}: no row is left ({_summary(file)}); change the options of {file.name}")
    return files


def _show_plan(stages: Mapping[str, BuildStage], site: Site, title: str) -> None:
    """Print what a build would ask. Stages that cost nothing are done in memory; after others, numbers are bounds."""
    from rich.table import Table

    from mmsafe.reporting.table import print_tables

    table = Table("stage", "state", "rows", "what it asks", title=title)
    rows: dict[str, Row] | None = {}  # None: not known before a stage is done that costs something
    bound = 0
    for file, stage in zip(_stage_files(stages, site), stages.values(), strict=True):
        if file.complete:
            rows = file.rows(rows or None)
            table.add_row(file.name, "complete", _summary(file), "nothing is asked")
        else:
            done = file.outcomes()
            missing = None if rows is None else _missing(stage, file, rows)
            count = bound if missing is None else len(missing)
            state = "to be made again" if file.outdated else "to go on" if done else "to be made"
            asks = stage.plan(count, None if missing is None else list(missing.values()))
            table.add_row(file.name, state, f"at most {count}" if missing is None else str(count), asks)
            if missing is None or rows is None or stage.costs:
                rows = None
            else:
                made = {key: outcome for portion in stage.make(missing, site) for key, outcome in portion} | done
                rows = {key: row for key in rows or made if (row := made[key].row) is not None}
        bound = bound if rows is None else len(rows)
    print_tables([table])


def _stage_files(stages: Mapping[str, BuildStage], site: Site) -> list[StageFile]:
    """The file of every stage; its fingerprint covers the stages before it, so a change redoes all that follow.

    The folder must be ours: unused images are deleted from it in the end.
    """
    folder = site.folder
    if any(path.name != LOCK for path in folder.iterdir()) and not any(folder.glob("stage_1_*.jsonl")):
        raise UserError(f"out={folder}: holds other files; name a new folder, or one that was built before")
    files: list[StageFile] = []
    fingerprint = ""
    for number, (name, stage) in enumerate(stages.items(), start=1):
        identity = stage.identity(site)
        fingerprint = digest([name, identity, fingerprint])
        files.append(StageFile(folder, number, name, identity, fingerprint))
    return files


def _missing(stage: BuildStage, file: StageFile, rows: Mapping[str, Row]) -> Mapping[str, Row]:
    """What is to be made of the rows that the stage before it has left."""
    done = file.outcomes()
    return rows if stage.whole else {key: row for key, row in rows.items() if key not in done}


def _summary(file: StageFile) -> str:
    """Counts of a stage in words."""
    dropped, remarks = file.dropped(), file.remarks()
    parts = [f"{len(file.outcomes()) - dropped.total()} of {len(file.outcomes())} kept"]
    for label, counts in (("dropped", dropped), ("remarks", remarks)):
        if counts:
            parts.append(f"{label}: " + ", ".join(f"{count} {reason}" for reason, count in counts.most_common()))
    return "; ".join(parts)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder for the block; raises `UserError` if it cannot be, or another process builds there."""
    if folder.is_file():
        raise UserError(f"out={folder}: is a file, where a folder is expected")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK, timeout=0).acquire()
    except Timeout as error:
        raise UserError(f"out={folder}: another process is building there; wait for it, or choose another") from error
    with lock:
        yield
