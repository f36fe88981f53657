"""Where metrics go besides `metrics.csv`: `conf/logger/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from mmsafe.options import options

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from mmsafe.reporting.runs import RunFolder

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


@options
class RunLogger(ABC):
    """A place that metrics are sent to."""

    def refusal(self) -> str:
        """Why this machine cannot do it; empty if it can."""
        return ""

    @abstractmethod
    def open(self, run: LoggedRun) -> Logger:
        """A logger for Lightning, which writes nothing before something is logged; raises `UserError` if it cannot."""

    def conclude(self, logger: Logger, metrics: Mapping[str, Any], folder: Path) -> None:  # noqa: B027
        """Add what only a finished run has: all its `metrics`, and the samples in its `folder`."""


@options
class Wandb(RunLogger):
    """Weights & Biases; offline where there is no key."""

    project: str = "mmsafe"
    group: str | None = None
    """Joins runs in the dashboard; null: the sweep, of a job of one."""
    job_type: str | None = None
    """null: the command, `train`."""
    tags: list[Annotated[str, Field(min_length=1, max_length=LONGEST_TAG)]] = Field(default_factory=list)
    """Beside those of the config groups, such as `objective=bpo`."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Prompts of the final evaluation that are uploaded with image, response and verdict. They are often offensive, and
    with a key they leave this machine: so 0, unless you say otherwise."""

    def refusal(self) -> str:
        """It is an extra."""
        missing = find_spec("wandb") is None
        return "logger=wandb: is not installed; run pip install 'mmsafe[wandb]', or use logger=csv" if missing else ""

    def open(self, run: LoggedRun) -> Logger:
        """One run per job, on its first process only."""
        from mmsafe.reporting.wandb_log import wandb_logger

        return wandb_logger(self, run)

    def conclude(self, logger: Logger, metrics: Mapping[str, Any], folder: Path) -> None:
        """As the run's summary, and a table of samples."""
        from mmsafe.reporting.wandb_log import log_result

        log_result(logger, metrics, folder, self.samples)


@options
class TensorBoard(RunLogger):
    """Event files in the run's folder `tensorboard/`."""

    def refusal(self) -> str:
        """It is an extra."""
        if find_spec("tensorboard") is None:
            return "logger=tensorboard: is not installed; run pip install 'mmsafe[board]', or use logger=csv"
        return ""

    def open(self, run: LoggedRun) -> Logger:
        """Scalars by step; steps that are trained again after an interruption replace the earlier ones."""
        from mmsafe.reporting.tensorboard_log import TensorBoardLog

        return TensorBoardLog(run.folder)


def this_run(folder: RunFolder) -> LoggedRun:
    """The run of this process, as Hydra started it in `folder`."""
    from hydra.core.hydra_config import HydraConfig

    hydra, name = HydraConfig.get(), folder.config["name"] or folder.path.name
    choices = tuple(f"{group}={hydra.runtime.choices[group]}" for group in TELLING)
    folder.note(run_id=folder.about.get("run_id") or token_hex(4))
    sweep, run_id = sweep_of(folder.path), folder.about["run_id"]
    return LoggedRun(folder.path, name, folder.config, hydra.job.name, sweep, choices, run_id)


def sweep_of(folder: Path) -> str | None:
    """Name of the sweep folder that a run's folder is a job of; None for a run by itself."""
    above = folder.resolve().parent
    return above.name if (above / "sweep.json").exists() or (above / "multirun.yaml").exists() else None
