"""Event files for TensorBoard."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger

from mmsafe.reporting.run_samples import SampledRun, encodable, side_by_side

FOLDER = "tensorboard"


def log_answers(logger: Any, step: int, runs: Sequence[SampledRun], samples: int) -> None:
    """So many prompts with their images and what each run answered, as code: nothing in it is read as markup."""
    for place in range(min(samples, *(len(run.samples) for run in runs))):
        prompt, tag = runs[0].samples[place].prompt, f"validation/{place + 1}"
        lines = [f"{turn.role}: {turn.text}" for turn in prompt.turns]
        lines += [f"{run.label}: {run.samples[place].generation['response']}" for run in runs]
        text = encodable("\n\n".join(lines))
        logger.experiment.add_text(tag, "".join(f"    {line}\n" for line in escape(text).splitlines()), step)
        if prompt.images:
            logger.experiment.add_image(tag, np.asarray(side_by_side(prompt.images)), step, dataformats="HWC")


class TensorBoardLog(TensorBoardLogger):
    """Scalars in `folder/tensorboard`; a continued run adds a file, and hides what it logs again.

    As with `metrics.csv`, the first call of a process tells from which step on. The last step is kept where only the
    evaluation after it is repeated.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version=FOLDER, default_hp_metric=False)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write scalars and give them to the disk."""
        if step is not None:
            trained = "train/loss" in metrics
            self._kwargs.setdefault("purge_step", step if trained else step + 1)
        super().log_metrics({name: float(value) for name, value in metrics.items()}, step)

    @rank_zero_only
    def save(self) -> None:
        """Give events to the disk; there is no `hparams.yaml`, for the run folder holds the config."""
        self.experiment.flush()
