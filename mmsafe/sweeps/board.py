"""How the jobs of a sweep are getting on: a live table on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmsafe.core.declared import declared_of
from mmsafe.core.files import csv_rows
from mmsafe.reporting.table import table_of
from mmsafe.sweeps.job import Job, State

LOSS = "train/loss"
EVERY = 1.0
"""Seconds between two looks at what the jobs have written."""
COLOURS: dict[State, str] = {
    "running": "cyan",
    "elsewhere": "cyan",
    "finished": "green",
    "failed": "red",
    "stopped": "yellow",
    "waiting": "dim",
}


@contextmanager
def board(jobs: Sequence[Job], console: Console | None = None) -> Iterator[Callable[[], None]]:
    """Shows the jobs on stderr in the block; yields the function that shows what has changed."""
    console = console or Console(stderr=True)
    shown: dict[str, State] = {}
    next_look = 0.0

    def tell() -> None:
        """A line for each job whose state is another than before."""
        over = sum(job.state in ("finished", "failed", "stopped") for job in jobs)
        for job in jobs:
            if job.state not in ("waiting", shown.get(job.name)):
                reason = f" ({job.message})" if job.message else ""
                line = f"[{over}/{len(jobs)}] {job.name}: {job.state}{reason}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            shown[job.name] = job.state

    def draw() -> None:
        nonlocal next_look
        if time.monotonic() >= next_look:
            live.refresh()
            next_look = time.monotonic() + EVERY

    if not console.is_terminal:
        yield tell
        return
    with Live(console=console, auto_refresh=False, get_renderable=lambda: job_table(jobs)) as live:
        yield draw


def job_table(jobs: Sequence[Job]) -> Table:
    """One row for each job: state, step, time left, last metric."""
    counts = {state: sum(job.state == state for job in jobs) for state in COLOURS}
    title = " · ".join(f"{count} {state}" for state, count in counts.items() if count)
    return table_of(title, ("job", "state", "step", "left", "last metric"), map(_row, jobs), left=2)


def _row(job: Job) -> tuple[str | Text, ...]:
    row = last_row(job.folder / "metrics.csv") if job.state in ("running", "elsewhere", "finished") else {}
    score = declared_of(job.folder, row).score(row) if job.state == "finished" else None
    names = [score[0], LOSS] if score else [LOSS]
    metric = next((f"{name} {row[name]:.3f}" for name in names if name in row), "")
    return job.name, Text(job.state, COLOURS[job.state]), *_progress(job, row), job.message or metric


def last_row(path: Path) -> dict[str, float]:
    """The last whole row of a `metrics.csv`, however long the file; empty where there is none."""
    try:
        with path.open("rb") as file:
            names = file.readline().decode()
            file.seek(max(len(names), file.seek(0, 2) - 100_000))
            rows = file.read().decode().split("\n")[:-1]
    except FileNotFoundError:
        return {}
    if not rows or not rows[-1]:
        return {}
    header, cells = csv_rows([names, rows[-1]])
    return {name: float(cell) for name, cell in zip(header, cells, strict=False) if cell}


def _progress(job: Job, row: Mapping[str, float]) -> tuple[str, str]:
    """Step of steps, and the time left for the rest of them; from the row's epoch and the time that its step took."""
    step, epoch = int(row.get("step", 0)), row.get("train/epoch", 0)
    if not step:
        return "", ""
    total = job.max_steps if job.max_steps > 0 else round(step / epoch * job.max_epochs) if epoch else 0
    if not total:
        return str(step), ""
    seconds = (total - step) * row.get("perf/seconds", 0)
    return f"{step}/{total}", str(timedelta(seconds=round(seconds))) if job.state == "running" else ""
