"""A job of a sweep: its folder, its command, and what has become of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from mmsafe.core.files import write_record
from mmsafe.core.run_lock import RUN, taken
from mmsafe.core.run_record import METRICS, metrics_of, read_json
from mmsafe.runs.run_folder import FAILED

State = Literal["waiting", "running", "elsewhere", "finished", "failed", "stopped"]
"""`elsewhere`: another sweep, or one that was killed, has left its process running; `stopped`: it can be continued."""
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}
CONSOLE = "console.log"


@dataclass
class Job:
    """A command that fills a run folder."""

    folder: Path
    command: Sequence[str]
    overrides: Mapping[str, str] = field(default_factory=dict)
    """What makes it differ from the other jobs of the sweep."""
    devices: int = 1
    """GPUs that it takes, where they are shared out."""
    max_steps: int = -1
    max_epochs: int = 1
    state: State = "waiting"
    message: str = ""
    """Why it failed."""

    @property
    def name(self) -> str:
        """Of its folder, which is the only one of that name in a sweep."""
        return self.folder.name

    @property
    def console(self) -> Path:
        """What the process writes to stdout and stderr, over all the times that it was started."""
        return self.folder / CONSOLE

    def look(self, retry_failed: bool = False) -> None:
        """Set the state to what the folder tells of earlier times."""
        failed = self.folder / FAILED
        if (self.folder / METRICS).exists():
            self.state, self.message = "finished", ""
        elif failed.exists() and not retry_failed:
            self.state, self.message = "failed", str(read_json(failed).get("message"))
        else:
            self.state, self.message = "waiting", ""

    def metrics(self) -> dict[str, Any]:
        """What it found; empty unless it is finished."""
        return metrics_of(self.folder) if self.state == "finished" else {}

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        """Start its process, in a session of its own; None if one is at work in the folder already.

        The lock of the folder goes to the process, so that it is held as long as that lives, whatever becomes of us.
        """
        run = uuid4().hex
        lock = taken(self.folder, run, patience=0)
        if lock is None:
            return None
        try:
            (self.folder / FAILED).unlink(missing_ok=True)
            with self.console.open("ab") as console:
                return subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env={**environment, RUN: run},
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def ended(self, status: int, console_from: int) -> None:
        """Set the state after the process ended with `status`; what it said begins at byte `console_from`."""
        if (self.folder / METRICS).exists() and status == 0:
            self.state = "finished"
        elif status in STOPPED:
            self.state = "stopped"
        else:
            self.state, self.message = "failed", self._reason(status, console_from)
            about = {"status": status, "message": self.message, "log": str(self.console)}
            write_record(self.folder / FAILED, about)

    def _reason(self, status: int, console_from: int) -> str:
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        with self.console.open("rb") as console:
            console.seek(max(console_from, console.seek(0, os.SEEK_END) - 10_000))
            lines = console.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:300] if said else f"ended with status {status} and said nothing"
