"""What a logger is told of its run."""

from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

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
    folder.note(run_id=folder.about.get("run_id") or token_hex(4))
    above = folder.path.resolve().parent
    sweep = above.name if any((above / name).exists() for name in ("sweep.json", "multirun.yaml")) else None
    choices = tuple(f"{group}={run.choices[group]}" for group in TELLING)
    name = folder.config["name"] or folder.path.name
    return LoggedRun(folder.path, name, folder.config, run.command, sweep, choices, folder.about["run_id"])
