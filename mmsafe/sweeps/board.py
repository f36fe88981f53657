"""How the jobs of a sweep are getting on: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmsafe.core.declared import declared_of
from mmsafe.core.files import csv_rows
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


class Board:
    """Shows the jobs on stderr while it is entered."""

    def __init__(self, jobs: Sequence[Job], console: Console | None = None) -> None:
        self.jobs = jobs
        self.console = console or Console(stderr=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._told: dict[str, State] = {}
        self._next = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.update(job_table(self.jobs), refresh=True)
            self.live.stop()

    def update(self) -> None:
        """Show what has changed."""
        if self.live is None:
            self._tell()
        elif time.monotonic() >= self._next:
            self.live.update(job_table(self.jobs), refresh=True)
            self._next = time.monotonic() + EVERY

    def _tell(self) -> None:
        """A line for each job whose state is another than before."""
        over = sum(job.state in ("finished", "failed", "stopped") for job in self.jobs)
        for job in self.jobs:
            if job.state not in ("waiting", self._told.get(job.name)):
                reason = f" ({job.message})" if job.message else ""
                line = f"[{over}/{len(self.jobs)}] {job.name}: {job.state}{reason}"
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._told[job.name] = job.state


def job_table(jobs: Sequence[Job]) -> Table:
    """One row for each job: state, step, time left, last metric."""
    counts = {state: sum(job.state == state for job in jobs) for state in COLOURS}
    table = Table(title=" · ".join(f"{count} {state}" for state, count in counts.items() if count))
    for name in ("job", "state", "step", "left", "last metric"):
        table.add_column(name, justify="right" if name in ("step", "left") else "left")
    for job in jobs:
        row = last_row(job.folder / "metrics.csv") if job.state in ("running", "elsewhere", "finished") else {}
        step, left = _progress(job, row)
        metric = next((f"{key} {row[key]:.3f}" for key in (*_score(job, row), LOSS) if key in row), "")
        table.add_row(Text(job.name), Text(job.state, COLOURS[job.state]), step, left, Text(job.message or metric))
    return table


def _score(job: Job, row: Mapping[str, float]) -> list[str]:
    """The metric by which a finished job is called better than another."""
    found = declared_of(job.folder, row).score(row) if job.state == "finished" else None
    return [found[0]] if found else []


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


def _progress(job: Job, row: dict[str, float]) -> tuple[str, str]:
    """Step of steps, and the time left for the rest of them; from the row's epoch and the time that its step took."""
    step, epoch = int(row.get("step", 0)), row.get("train/epoch", 0)
    if not step:
        return "", ""
    total = job.max_steps if job.max_steps > 0 else round(step / epoch * job.max_epochs) if epoch else 0
    if not total:
        return str(step), ""
    seconds = (total - step) * row.get("perf/seconds", 0)
    return f"{step}/{total}", str(timedelta(seconds=round(seconds))) if job.state == "running" else ""
