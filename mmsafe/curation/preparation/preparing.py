"""What `mmsafe.prepare` does: from a data set to a folder that is complete or not there."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import ByteSize, Field

from mmsafe.core.cache import cache_dir, locked
from mmsafe.core.config import resolved
from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically, write_json
from mmsafe.core.options import OutputPath, options
from mmsafe.core.progress import progress
from mmsafe.core.run_record import read_json
from mmsafe.core.secrets import masked
from mmsafe.core.storage import needs_room
from mmsafe.curation.preparation.passes import Streamed, Whole, passes, published
from mmsafe.curation.preparation.peer_rows import dataset_info, peer_row
from mmsafe.curation.preparation.shards import PEERS, Format, SplitWriter
from mmsafe.curation.preparation.trl_rows import Columns, Images, Survey
from mmsafe.data.data_source import BadRow, DataSource
from mmsafe.data.example import digest
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource
from mmsafe.data.splits import INFO
from mmsafe.runs.run_context import RunContext

log = logging.getLogger(__name__)
OF_LOADING = ("batch_size", "max_tokens", "num_workers", "group_by_length")
"""Options of the data that change no row."""
ABOUT, CARD, REFUSED, SHARDS = "prepared.json", "README.md", "refused.jsonl", "data"


@options
class PrepareConfig:
    """`conf/prepare.yaml`, typed."""

    data: DataSource
    out: OutputPath
    format: Format
    images: Images
    max_shard_size: Annotated[ByteSize, Field(gt=0)]
    splits: Annotated[list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]], Field(min_length=1)] | None


def run(config: PrepareConfig, context: RunContext) -> None:
    """Write `config.out`, which appears only when it is complete."""
    settings = {key: value for key, value in resolved(context.cfg).items() if key != "out"}
    settings["data"] = {key: value for key, value in settings["data"].items() if key not in OF_LOADING}
    prepare(config, settings)
    show_results(config.out, "python -m mmsafe.train data=auto data.path={}")


def prepare(config: PrepareConfig, settings: Mapping[str, Any]) -> None:
    """Write the set to `config.out`; one that is finished there is left alone. `settings` are as the user said them.

    Raises `UserError` if there is anything else: a set of other settings, or of files that have changed since, too.
    """
    target = config.out.absolute()
    if inside := next((one for one in _folders(config.data) if target.is_relative_to(one.absolute())), None):
        raise UserError(f"out={config.out}: is in {inside}, whose files are read; name a folder elsewhere")
    identity = masked(json.loads(json.dumps(_identity(config, settings), default=str)))
    with locked(FileLock(cache_dir("prepare") / f"{digest(str(target))}.lock"), f"out={config.out}"):
        if _is_finished(target, identity):
            log.info("%s is finished", config.out)
            return
        unfinished = target.parent / f".{target.name}.unfinished"  # what a kill left there is begun anew
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with needs_room(target):
                (unfinished / SHARDS).mkdir(parents=True)
                _fill(unfinished, config, identity)
                unfinished.replace(target)  # over an empty folder, or over nothing
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    log.info("wrote %s", config.out)


def _identity(config: PrepareConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a prepared set depends on: the settings, and the files that are read, by size and time of change."""
    source = config.data
    sources = [source] if config.splits is None else [published(source, split) for split in config.splits]
    states = {str(file): file.stat() for one in sources for file in one.files() if file.is_file()}
    files = {file: {"bytes": state.st_size, "modified": state.st_mtime_ns} for file, state in states.items()}
    located = source.located() if isinstance(source, RowSource) else {}
    return {"settings": {**settings, "data": {**settings.get("data", {}), **located}}, "files": files}


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
        about = read_json(target / ABOUT)
        if all(about.get(key) == value for key, value in identity.items()):
            return True
        raise UserError(
            f"out={target}: holds a set of other options, or of files that have changed since; name another"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"out={target}: is there already and not empty; name a new folder")
    return False


def _fill(folder: Path, config: PrepareConfig, identity: Mapping[str, Any]) -> None:
    from mmsafe.curation.preparation.card import card

    scratch = folder / "scratch"
    scratch.mkdir()
    parts = passes(config.data, config.splits, scratch)
    survey, refused = _checked(parts, config.images, folder / REFUSED)
    columns = survey.columns(config.data.brings())
    if config.format == "llamafactory" and frozenset() in survey.answered:
        raise UserError("format=llamafactory: has no place for prompts without responses; choose splits without such")
    splits, names = _written(parts, config, columns, survey.count, folder / SHARDS)
    shutil.rmtree(scratch)
    about = {
        **identity,
        "versions": {name: version(name) for name in ("mmsafe", "datasets", "pyarrow")},
        "format": config.format,
        "columns": names,
        "splits": splits,
        "refused": dict(refused),
    }
    write_atomically(folder / CARD, card(about))
    write_json(folder / ABOUT, about)
    if config.format == "llamafactory":
        write_json(folder / INFO, dataset_info(splits, names))
    counts = ", ".join(f"{split['rows']} of {name}" for name, split in splits.items())
    log.info("%s; refused: %s", counts, dict(refused) or "none")


def _checked(parts: Sequence[Whole | Streamed], images: Images, refusals: Path) -> tuple[Survey, Counter[str]]:
    """What the good examples have, and why others are refused; which ones stands in `refusals`."""
    survey, refused = Survey(), Counter[str]()

    def refuse(row: BadRow) -> None:
        refused[row.reason] += 1
        with refusals.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row._asdict()) + "\n")

    for part in parts:
        for example in part.check(refuse):
            survey.add(example, images)
    return survey, refused


def _written(
    parts: Sequence[Whole | Streamed], config: PrepareConfig, columns: Columns, count: int, folder: Path
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What is told of every split that has been written, and the columns of the rows."""
    schema = columns.features().arrow_schema
    writers: dict[str, SplitWriter] = {}
    row: dict[str, Any] = {}
    with progress("writing", count) as advance:
        for part in parts:
            for name, example in part.examples():
                if name not in writers:
                    writers[name] = SplitWriter(folder, name, schema, config.format, config.max_shard_size)
                row = columns.row(example, config.images)
                if config.format in PEERS:
                    row = peer_row(example, row, config.format, folder.parent / "images")
                writers[name].write(example, row)
                advance(1)
    return {name: writer.close() for name, writer in writers.items()}, list(row)
