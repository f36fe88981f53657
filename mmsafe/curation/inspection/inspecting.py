"""What `mmsafe.inspect` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically, write_csv, write_record
from mmsafe.core.options import Seed, options
from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import MEANING, of_bad_row
from mmsafe.curation.preparation.passes import published
from mmsafe.data.data_source import DataSource, Loaded
from mmsafe.data.holdout import refuse_unsplit
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource
from mmsafe.evaluation.leakage import check_installed
from mmsafe.models.model_source import ModelSource
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.curation.inspection.rows import Inspected

    Flag = str
else:
    Flag = Literal[tuple(MEANING)]

PAGE, ROWS, STATISTICS = "inspect.html", "rows.csv", "statistics.json"


@options
class InspectConfig:
    """`conf/inspect.yaml`, typed."""

    data: DataSource
    model: ModelSource
    lengths: Lengths
    splits: Annotated[list[str], Field(min_length=1)] | None
    decode: bool
    leakage: bool
    samples: Annotated[int, Field(ge=0)]
    seed: Seed
    fail_on: list[Flag]

    def __post_init__(self) -> None:
        if self.leakage:
            check_installed()
        if "leaked_look" in self.fail_on and not self.decode:
            raise UserError("fail_on=leaked_look: only decode=true finds images that look alike")


def inspect(config: InspectConfig, run: RunContext) -> None:
    """Read, count, write and print; ends the process with status 1 if rows have a flag of `fail_on`."""
    from mmsafe.curation.inspection.charts import charts
    from mmsafe.curation.inspection.page import page
    from mmsafe.curation.inspection.row_statistics import statistics
    from mmsafe.curation.inspection.row_tables import main_tables
    from mmsafe.curation.inspection.rows import look_through
    from mmsafe.reporting.report_page import FIGURES
    from mmsafe.reporting.table import print_tables, table_of
    from mmsafe.runs.run_folder import environment

    folder, model, data = run.folder, run.choices["model"], run.choices["data"]
    encoder = config.model.encoder()
    loaded = read_splits(config.data, config.splits)
    inspected = look_through(loaded, encoder, config.data.brings(), config.lengths, decode=config.decode)
    numbers = statistics(inspected, leakage=config.leakage)
    vocabulary, image = len(encoder.tokenizer), encoder.image_tokens
    tokenizer = f"counted by model={model}: {vocabulary} different tokens, {image} for an image"
    facts = {"data": data, "tokenizer": tokenizer, "lengths": asdict(config.lengths), **environment()}
    write_record(folder / STATISTICS, {**facts, "splits": numbers})
    write_csv(folder / ROWS, _rows(inspected))
    drawn = charts(inspected, numbers, config.lengths)
    for panel in drawn:
        panel.write(folder / FIGURES)
    tables = main_tables(numbers, config.lengths, tokenizer, decoded=config.decode)
    html = page(inspected, numbers, tables, drawn, data, samples=config.samples, seed=config.seed)
    write_atomically(folder / PAGE, html)
    print_tables(
        table_of(table.title, table.head, ([cell.text for cell in row] for row in table.rows), table.note, left=99)
        for table in tables
    )
    show_results(folder / PAGE)
    counts = {flag: sum(part["flags"][flag] for part in numbers.values()) for flag in config.fail_on}
    if any(counts.values()):
        failed = ", ".join(f"{count} × {flag}" for flag, count in counts.items() if count)
        print(f"mmsafe.inspect: fail_on: {failed}", file=sys.stderr)
        sys.exit(1)


def _rows(inspected: Inspected) -> Iterator[Sequence[object]]:
    """Every row with its lengths and flags, and every dropped row with its place; none with any of its words."""
    names = dict.fromkeys(name for rows in inspected.rows.values() for row in rows for name in row.tokens)
    columns = ["split", "id", "place", "turns", "images", *(f"tokens_{name}" for name in names), *MEANING]
    yield columns
    for split, rows in inspected.rows.items():
        bad_rows = inspected.loaded[split].bad_rows
        lines: list[dict[str, object]] = [{"place": bad.place, **of_bad_row(bad)} for bad in bad_rows]
        for row in rows:
            tokens = {f"tokens_{name}": count for name, count in row.tokens.items()}
            lines.append({"id": row.id, "turns": row.turns, "images": " ".join(row.images), **tokens, **row.flags})
        yield from ([split, *(cells.get(column, "") for column in columns[1:])] for cells in lines)


def read_splits(data: DataSource, names: Sequence[str] | None) -> dict[str, Loaded]:
    """The splits called `names`, or else what a run trains on, `train`, and what it holds out, `holdout`.

    Of a mixture, all rows of every part are read once. Raises `UserError` for a split that there is not.
    """
    data = _tolerant(data)
    if names is not None:
        return {name: _split(data, name) for name in names}
    splits = {"train": data.prompts(), "holdout": data.holdout()}
    return {name: loaded for name, loaded in splits.items() if loaded.examples or loaded.bad_rows}


def _tolerant(data: DataSource) -> DataSource:
    """The same data; a bad row does not end the command."""
    if isinstance(data, Mix):
        parts = {name: _tolerant(part) for name, part in data.parts.items()}
        return replace(data, parts=parts, weights=None, repeat=False)
    return replace(data, on_bad="skip") if isinstance(data, RowSource) else data


def _split(data: DataSource, name: str) -> Loaded:
    if not isinstance(data, RowSource):
        raise UserError("splits: only a data set that is read from files has splits by name; set it to null")
    source = published(data, name)
    try:
        if source.path is not None and source.path.is_file():
            refuse_unsplit(source.path, name)
        return source.test()
    except UserError as error:
        raise UserError(str(error).replace("data.eval_split", "splits").replace("data.split", "splits")) from error
