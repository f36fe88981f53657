"""What a build would ask, of whom and how much, without asking."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from mmsafe.curation.build.building import stage_files, summary
from mmsafe.curation.build.stage import BuildStage, Row, Site
from mmsafe.curation.build.stage_file import StageFile


def plan(stages: Mapping[str, BuildStage], site: Site, title: str) -> Table:
    """A line for each stage. Stages that cost nothing are done in memory; after one that does, numbers are bounds."""
    table = Table(title=title)
    for column in ("stage", "state", "rows", "what it asks"):
        table.add_column(column)
    rows: dict[str, Row] | None = {}
    bound = 0
    for file, stage in zip(stage_files(stages, site), stages.values(), strict=True):
        done = file.outcomes()
        missing = None if rows is None else [row for key, row in rows.items() if key not in done]
        count = bound if missing is None else len(missing)
        rows = _after(stage, file, rows, site)
        if file.complete:
            table.add_row(file.name, "complete", summary(file), "nothing is asked")
        else:
            state = "to be made again" if file.outdated else "to go on" if done else "to be made"
            told = f"at most {count}" if missing is None else str(count) if count else f"{len(rows or ())}"
            table.add_row(file.name, state, told, stage.plan(count, missing))
        bound = bound if rows is None else len(rows)
    return table


def _after(stage: BuildStage, file: StageFile, rows: dict[str, Row] | None, site: Site) -> dict[str, Row] | None:
    """The rows that the stage leaves; None if they are not known yet."""
    if file.complete:
        return file.rows(rows or None)
    if rows is None or stage.costs:
        return None
    done = file.outcomes()
    missing = rows if stage.whole else {key: row for key, row in rows.items() if key not in done}
    made = {key: outcome for portion in stage.make(missing, site) for key, outcome in portion} | done
    order = rows or made
    return {key: row for key in order if (row := made[key].row) is not None}
