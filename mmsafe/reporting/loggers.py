"""Where metrics go besides `metrics.csv`: `conf/logger/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.reporting.logged_run import LONGEST_TAG, LoggedRun

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from mmsafe.reporting.run_samples import SampledRun


@options
class RunLogger(ABC):
    """A place that metrics are sent to."""

    package: ClassVar[str] = ""
    """What has to be installed."""
    extra: ClassVar[str] = ""
    """The extra of mmsafe that brings it."""

    def refusal(self) -> str:
        """Why this machine cannot do it; empty if it can."""
        if not self.package or find_spec(self.package):
            return ""
        install = f"pip install 'mmsafe[{self.extra}]'"
        return f"logger={self.package}: is not installed; run {install}, or use logger=csv"

    @abstractmethod
    def open(self, run: LoggedRun) -> Logger:
        """A logger for Lightning, which writes nothing before something is logged; raises `UserError` if it cannot."""

    def show(self, logger: Logger, step: int, runs: Sequence[SampledRun]) -> None:  # noqa: B027
        """Add what `runs`, the reference and the policy after so many steps, answered to the same prompts."""

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
    """Prompts of each validation and of the final evaluation that are uploaded with image, response and verdict. They
    are often offensive, and with a key they leave this machine: so 0, unless you say otherwise."""
    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def open(self, run: LoggedRun) -> Logger:
        """One run per job, on its first process only."""
        from mmsafe.reporting.wandb_log import wandb_logger

        return wandb_logger(run, project=self.project, group=self.group, job_type=self.job_type, tags=self.tags)

    def show(self, logger: Logger, step: int, runs: Sequence[SampledRun]) -> None:
        from mmsafe.reporting.wandb_log import log_answers

        log_answers(logger, step, runs, self.samples)

    def conclude(self, logger: Logger, metrics: Mapping[str, Any], folder: Path) -> None:
        """As the run's summary, and a table of samples."""
        from mmsafe.reporting.wandb_log import log_result

        log_result(logger, metrics, folder, self.samples)


@options
class TensorBoard(RunLogger):
    """Event files in the run's folder `tensorboard/`."""

    samples: Annotated[int, Field(ge=0)] = 0
    """Prompts of each validation that are shown with images and answers. They are often offensive: so 0, unless you say
    otherwise."""
    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "board"

    def open(self, run: LoggedRun) -> Logger:
        """Scalars by step; steps that are trained again after an interruption replace the earlier ones."""
        from mmsafe.reporting.tensorboard_log import TensorBoardLog

        return TensorBoardLog(run.folder)

    def show(self, logger: Logger, step: int, runs: Sequence[SampledRun]) -> None:
        from mmsafe.reporting.tensorboard_log import log_answers

        log_answers(logger, step, runs, self.samples)
