"""What came of a sweep: `sweep.json`, `results.csv`, one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.core.declared import declared_of, together
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_csv, write_json
from mmsafe.core.run_record import metrics_of
from mmsafe.reporting.table import COLUMNS, table_of
from mmsafe.sweeps.job import Job, State

SWEEP = "sweep.json"


class Entry(TypedDict):
    """What came of a job."""

    job: str
    overrides: dict[str, str]
    status: State
    message: str


JOBS = TypeAdapter(dict[str, list[Entry]])
"""`sweep.json`."""


def recorded(folder: Path) -> list[Entry]:
    """The entries of a `sweep.json`; none where there is no such file. Raises `UserError` if it is damaged."""
    path = folder / SWEEP
    if not path.exists():
        return []
    try:
        return JOBS.validate_json(path.read_bytes(), strict=True)["jobs"]
    except (ValidationError, KeyError) as error:
        raise UserError(f"{path}: is damaged; delete it, the jobs beside it stay") from error


def record(folder: Path, before: Sequence[Entry], jobs: Sequence[Job]) -> None:
    """Write `sweep.json`, all jobs in the order in which they first came up, and `results.csv`, a row for each.

    What depends on the clock is left out of the latter, so that the same jobs give the same file.
    """
    now: list[Entry] = [
        {"job": job.name, "overrides": dict(job.overrides), "status": job.state, "message": job.message} for job in jobs
    ]
    entries = list({entry["job"]: entry for entry in [*before, *now]}.values())
    write_json(folder / SWEEP, {"jobs": entries})
    rows = _with_metrics(folder, entries)
    keys = list(dict.fromkeys(key for entry in entries for key in entry["overrides"]))
    names = sorted({name for _, metrics in rows for name in metrics if not name.startswith("perf/")})
    lines: list[list[Any]] = [["job", "status", *keys, *names]]
    for entry, metrics in rows:
        overrides = [entry["overrides"].get(key, "") for key in keys]
        lines.append([entry["job"], entry["status"], *overrides, *(metrics.get(name, "") for name in names)])
    write_csv(folder / "results.csv", lines)


def table_of_results(folder: Path, entries: Sequence[Entry]) -> Table:
    """A row for each job: what became of it, and the first metrics that any job has."""
    rows = _with_metrics(folder, entries)
    declared = together(declared_of(folder / entry["job"], metrics) for entry, metrics in rows if metrics)
    measured = declared.measured(metrics for _, metrics in rows)[:COLUMNS]
    judges = declared.judged_by([metrics for _, metrics in rows], measured)
    shown = {metric.key: metric.label for metric in measured}
    if any("train/loss" in metrics for _, metrics in rows):
        shown["train/loss"] = "loss"
    keys = list(shown)[:COLUMNS]
    cells = [
        [
            entry["job"],
            entry["status"] + (f": {entry['message']}" if entry["message"] else ""),
            *(f"{metrics[key]:.3f}" if key in metrics else "–" for key in keys),
        ]
        for entry, metrics in rows
    ]
    return table_of(str(folder), ["job", "status", *(shown[key] for key in keys)], cells, judges, left=2)


def _with_metrics(folder: Path, entries: Sequence[Entry]) -> list[tuple[Entry, dict[str, Any]]]:
    """Each entry with the metrics of its job, which are empty unless it is finished."""
    return [(entry, metrics_of(folder / entry["job"]) if entry["status"] == "finished" else {}) for entry in entries]
