"""What a logger is told of its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mmsafe.runs.run_context import RunContext
    from mmsafe.runs.run_folder import RunFolder


LONGEST_TAG = 64
"""Characters that Weights & Biases takes."""


TELLING = ("objective", "model", "data", "peft")
"""Config groups that tell runs apart."""


class LoggedRun(NamedTuple):
    """What a logger is told of its run."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    """Resolved."""
    command: str = "train"
    sweep: str | None = None
    """Name of the sweep that the run is a job of."""
    choices: tuple[str, ...] = ()
    """What was chosen of `TELLING` groups, such as `objective=bpo`."""
    id: str | None = None
    """The same again when the run is continued."""


def this_run(folder: RunFolder, run: RunContext) -> LoggedRun:
    """The run of this process, which is recorded in `folder`."""
    name = folder.config["name"] or folder.path.name
    choices = tuple(f"{group}={run.choices[group]}" for group in TELLING)
    folder.note(run_id=folder.about.get("run_id") or token_hex(4))
    sweep, run_id = sweep_of(folder.path), folder.about["run_id"]
    return LoggedRun(folder.path, name, folder.config, run.command, sweep, choices, run_id)


def sweep_of(folder: Path) -> str | None:
    """Name of the sweep folder that a run's folder is a job of; None for a run by itself."""
    above = folder.resolve().parent
    return above.name if (above / "sweep.json").exists() or (above / "multirun.yaml").exists() else None
