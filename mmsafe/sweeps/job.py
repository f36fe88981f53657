"""A job of a sweep: its folder, which the same config finds again, its command, its process, and what became of it."""

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any, Literal
from uuid import uuid4

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from mmsafe.core.config import SHOWN, STARTING, resolved
from mmsafe.core.files import write_record
from mmsafe.core.run_lock import RUN, taken
from mmsafe.core.run_record import METRICS, read_json
from mmsafe.data.example import digest
from mmsafe.runs.run_folder import FAILED

State = Literal["waiting", "running", "elsewhere", "finished", "failed", "stopped"]
"""`elsewhere`: another sweep, or one that was killed, has left its process running; `stopped`: it can be continued."""
LONGEST = 80
"""Characters of overrides in a name: file systems allow 255 bytes."""
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}


@dataclass(eq=False)
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
    gpus: Sequence[int | str] = ()
    """Those that it was given."""
    process: Popen[bytes] | None = None
    console_from: int = 0
    """Where in `console`, which all its processes write to, what this one says begins."""

    @property
    def name(self) -> str:
        """Of its folder, which is the only one of that name in a sweep."""
        return self.folder.name

    @property
    def console(self) -> Path:
        """What the process writes to stdout and stderr, over all the times that it was started."""
        return self.folder / "console.log"

    def look(self, retry_failed: bool = False) -> None:
        """Set the state to what the folder tells of earlier times."""
        failed = self.folder / FAILED
        self.state, self.message = "waiting", ""
        if (self.folder / METRICS).exists():
            self.state = "finished"
        elif failed.exists() and not retry_failed:
            self.state, self.message = "failed", str(read_json(failed).get("message"))

    def start(self, environment: Mapping[str, str]) -> None:
        """Start its process, in a session of its own; if one is at work in the folder already, it is `elsewhere`.

        The lock of the folder goes to the process, so that it is held as long as that lives, whatever becomes of us.
        """
        self.console_from = self.console.stat().st_size if self.console.exists() else 0
        run = uuid4().hex
        lock = taken(self.folder, run, patience=0)
        if lock is None:
            self.state = "elsewhere"
            return
        try:
            (self.folder / FAILED).unlink(missing_ok=True)
            with self.console.open("ab") as console:
                self.process = Popen(
                    self.command,
                    stdin=DEVNULL,
                    stdout=console,
                    stderr=STDOUT,
                    env={**environment, RUN: run},
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            self.state = "running"
        finally:
            os.close(lock)

    def ended(self, status: int) -> None:
        """Set the state after the process ended with `status`."""
        if (self.folder / METRICS).exists() and status == 0:
            self.state = "finished"
        elif status in STOPPED:
            self.state = "stopped"
        else:
            self.state, self.message = "failed", self._reason(status)
            about = {"status": status, "message": self.message, "log": str(self.console)}
            write_record(self.folder / FAILED, about)

    def _reason(self, status: int) -> str:
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        with self.console.open("rb") as console:
            console.seek(max(self.console_from, console.seek(0, os.SEEK_END) - 10_000))
            lines = console.read().decode(errors="replace").split("\n")
        printed = [line.strip() for line in lines if line.strip()]
        return printed[-1][:300] if printed else f"ended with status {status} and said nothing"


def sweep_name(words: Sequence[str]) -> str:
    """The preset or the options that vary, and a hash of the words, whose order and way of starting do not count."""
    ignored = tuple(f"{node}." for node in STARTING)
    counting = [word for word in words if not word.startswith(ignored) and word.partition("=")[0] not in SHOWN]
    overrides = OverridesParser.create().parse_overrides(counting)
    preset = [str(override.value()) for override in overrides if override.key_or_group == "sweep"]
    varied = [_short(str(override.key_or_group)) for override in overrides if override.is_sweep_override()]
    return _joined(preset or varied, sorted(set(counting)))


def job_name(overrides: Mapping[str, str], cfg: DictConfig) -> str:
    """`bpo-beta0.1-seed0-3f9a12ab`: what varies within the sweep, and a hash of the config that counts.

    Made of characters that need no quotes, neither in a shell nor in an override.
    """
    config = resolved(cfg)
    for option in SHOWN:
        group, _, key = option.partition(".")
        config.get(group, {}).pop(key, None)
    return _joined([_part(key, value) for key, value in overrides.items()], config)


def _joined(parts: Sequence[str], hashed: Any) -> str:
    readable = "-".join(re.sub(r"[^\w.+-]+", "_", part, flags=re.ASCII).strip("_-.") for part in parts)
    return "-".join([*([readable[:LONGEST]] if readable else []), digest(hashed)[:8]])


def _part(key: str, value: str) -> str:
    """A choice says enough without its group; of a drawn number four digits do: the hash tells it from others."""
    if "." not in key and re.fullmatch(r"[-+.\deE]+|true|false|null", value) is None:
        return value
    drawn = re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value)
    return _short(key) + (f"{float(value):.4g}" if drawn else value)


def _short(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2]
