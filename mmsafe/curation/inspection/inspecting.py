"""What `mmsafe.inspect` does once its config has been checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmsafe.core.endings import show_results
from mmsafe.core.files import write_atomically, write_csv, write_record
from mmsafe.curation.inspection.charts import charts
from mmsafe.curation.inspection.flags import Flags, of_bad_row
from mmsafe.curation.inspection.page import page
from mmsafe.curation.inspection.published_splits import read_splits
from mmsafe.curation.inspection.row_statistics import FLAGS, statistics
from mmsafe.curation.inspection.row_tables import Statistics, for_terminal, main_tables
from mmsafe.curation.inspection.rows import Inspected, look_through
from mmsafe.models.encoding import Encoder
from mmsafe.reporting.report_page import FIGURES
from mmsafe.reporting.table import print_tables
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import environment

if TYPE_CHECKING:
    from mmsafe.curation.inspection.inspect_config import InspectConfig

PAGE, ROWS, STATISTICS = "inspect.html", "rows.csv", "statistics.json"


def inspect(config: InspectConfig, run: RunContext) -> str:
    """Read, count, write and print; returns the flags of `config.fail_on` that rows have, empty if none has any."""
    folder, chosen = run.folder, run.choices
    encoder = config.model.encoder()
    loaded = read_splits(config.data, config.splits)
    found = look_through(loaded, encoder, config.data.brings(), config.lengths, decode=config.decode)
    numbers, tokenizer = statistics(found), _tokenizer(chosen["model"], encoder)
    facts = {"data": chosen["data"], "tokenizer": tokenizer, "lengths": asdict(config.lengths), **environment()}
    write_record(folder / STATISTICS, {**facts, "splits": numbers})
    write_csv(folder / ROWS, _rows(found))
    drawn = charts(found, numbers, config.lengths)
    for panel in drawn:
        panel.write(folder / FIGURES)
    tables = main_tables(numbers, config.lengths, tokenizer, decoded=config.decode)
    write_atomically(folder / PAGE, page(found, numbers, tables, drawn, str(chosen["data"]), config))
    print_tables([for_terminal(table) for table in tables])
    show_results(folder / PAGE)
    return _failures(numbers, config)


def _tokenizer(model: str, encoder: Encoder) -> str:
    return f"counted by model={model}: {len(encoder.tokenizer)} different tokens, {encoder.image_tokens} for an image"


def _rows(found: Inspected) -> Iterator[Sequence[object]]:
    """Every row with its lengths and flags, and every dropped row with its place; none with any of its words."""
    names = dict.fromkeys(name for rows in found.rows.values() for row in rows for name in row.tokens)
    columns = ["split", "id", "place", "turns", "image", *(f"tokens_{name}" for name in names), *FLAGS]
    yield columns
    for split, row, flags in _told(found):
        cells = {"split": split, **row, **{str(flag): about for flag, about in flags.items()}}
        yield [cells.get(column, "") for column in columns]


def _told(found: Inspected) -> Iterator[tuple[str, dict[str, object], Flags]]:
    for split, rows in found.rows.items():
        for bad in found.loaded[split].bad_rows:
            yield split, {"place": bad.place}, of_bad_row(bad)
        for row in rows:
            tokens = {f"tokens_{name}": count for name, count in row.tokens.items()}
            yield split, {"id": row.id, "turns": row.turns, "image": row.image, **tokens}, row.flags


def _failures(numbers: Statistics, config: InspectConfig) -> str:
    counts = {flag: sum(part["flags"][flag] for part in numbers.values()) for flag in config.fail_on}
    return ", ".join(f"{count} × {flag}" for flag, count in counts.items() if count)
