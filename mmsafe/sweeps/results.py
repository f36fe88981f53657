"""What came of a sweep: `sweep.json`, `results.csv`, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.core.declared import declared_of
from mmsafe.core.declared import together as declared_together
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_csv, write_json
from mmsafe.core.run_record import metrics_of
from mmsafe.sweeps.job import Job, State

SWEEP = "sweep.json"
COLUMNS = 5
"""Metrics in the printed table; `results.csv` has all."""


class Entry(TypedDict):
    """What came of a job."""

    job: str
    overrides: dict[str, str]
    status: State
    message: str


class Jobs(TypedDict):
    """`sweep.json`."""

    jobs: list[Entry]


JOBS = TypeAdapter(Jobs)


def entries(jobs: Sequence[Job]) -> list[Entry]:
    """What `sweep.json` holds of each job."""
    return [
        {"job": job.name, "overrides": dict(job.overrides), "status": job.state, "message": job.message} for job in jobs
    ]


def recorded(folder: Path) -> list[Entry]:
    """The entries of a `sweep.json`; none where there is no such file. Raises `UserError` if it is damaged."""
    path = folder / SWEEP
    if not path.exists():
        return []
    try:
        return JOBS.validate_json(path.read_bytes(), strict=True)["jobs"]
    except ValidationError as error:
        raise UserError(f"{path}: is damaged; delete it, the jobs beside it stay") from error


def record(folder: Path, jobs: Sequence[Entry]) -> None:
    """Write `sweep.json`."""
    write_json(folder / SWEEP, {"jobs": list(jobs)})


def together(before: Sequence[Entry], now: Sequence[Entry]) -> list[Entry]:
    """Entries in the order in which their jobs first came up, each as it is now."""
    return list({entry["job"]: entry for entry in [*before, *now]}.values())


def with_metrics(folder: Path, jobs: Sequence[Entry]) -> list[tuple[Entry, dict[str, Any]]]:
    """Each entry with the metrics of its job, which are empty unless it is finished."""
    return [(entry, metrics_of(folder / entry["job"]) if entry["status"] == "finished" else {}) for entry in jobs]


def write_results(folder: Path, jobs: Sequence[Entry]) -> None:
    """Write `results.csv`: a row for each job, with its overrides, status and metrics.

    What depends on the clock is left out, so that the same jobs give the same file.
    """
    rows = with_metrics(folder, jobs)
    keys = list(dict.fromkeys(key for entry, _ in rows for key in entry["overrides"]))
    names = sorted({name for _, metrics in rows for name in metrics if not name.startswith("perf/")})
    lines: list[list[Any]] = [["job", "status", *keys, *names]]
    for entry, metrics in rows:
        overrides = [entry["overrides"].get(key, "") for key in keys]
        lines.append([entry["job"], entry["status"], *overrides, *(metrics.get(name, "") for name in names)])
    write_csv(folder / "results.csv", lines)


def table_of_results(folder: Path, jobs: Sequence[Entry]) -> Table:
    """A row for each job: what became of it, and the first metrics that any job has."""
    rows = with_metrics(folder, jobs)
    declared = declared_together(declared_of(folder / entry["job"], metrics) for entry, metrics in rows if metrics)
    shown = [(metric.key, metric.label) for metric in declared.measured(metrics for _, metrics in rows)]
    shown += [("train/loss", "loss")] * any("train/loss" in metrics for _, metrics in rows)
    table = Table(title=Text(str(folder)))
    for name in ("job", "status", *(label for _, label in shown[:COLUMNS])):
        table.add_column(name, justify="left" if name in ("job", "status") else "right")
    for entry, metrics in rows:
        status = entry["status"] + (f": {entry['message']}" if entry["message"] else "")
        cells = [f"{metrics[key]:.3f}" if key in metrics else "–" for key, _ in shown[:COLUMNS]]
        table.add_row(Text(entry["job"]), Text(status), *cells)
    return table
