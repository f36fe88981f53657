"""What is told of a training while it runs: its steps and validations, in loggers and in a bar."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import Progress

from mmsafe.core.progress import progress_bar
from mmsafe.core.rates import STEPS, note_rate
from mmsafe.training.best import Best
from mmsafe.training.module import PreferenceModule
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.validation import Validation

log = logging.getLogger(__name__)


class StepLog(Callback):
    """Logs a step before checkpoints are written: Lightning calls the module's own hook after them.

    Beside the metrics stand the seconds since the last step, the share of them spent waiting for data, and the share of
    padding in the lines of its batches. Where a validation is due it follows, and `best` is told what it found, whose
    state checkpoints hold.
    """

    def __init__(self, data: PreferenceData, show_bar: bool, validation: Validation | None, best: Best) -> None:
        self.data = data
        self.show_bar = show_bar
        self.validation = validation
        self.best = best
        self.bar = Progress(disable=True)
        self.begin = self.waited = 0.0
        self.seconds = 0.0
        self.padding = self.positions = self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return self.best.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best.load(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PreferenceModule)
        self._stop_early(trainer)
        self.bar = progress_bar(pl_module.total_steps if self.show_bar else 0)
        self.bar.add_task("", total=pl_module.total_steps, completed=trainer.global_step)
        self._show(trainer, pl_module)
        self.bar.start()
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PreferenceModule)
        self.padding += batch.padding
        self.positions += batch.input_ids.numel()
        step = trainer.global_step
        if step == pl_module.trained_steps:
            return  # between the micro-batches of a step
        now, waited = time.perf_counter(), self.data.waited
        seconds = now - self.begin
        self.seconds, self.steps = self.seconds + seconds, self.steps + 1
        timing = {"perf/seconds": seconds, "perf/data_wait": (waited - self.waited) / seconds}
        timing["perf/padding"] = self.padding / self.positions
        validates = self.validation is not None and self.validation.is_due(step)
        logs = validates or step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        pl_module.log_step(batch_idx, timing, logs)
        self._show(trainer, pl_module)
        if validates:
            self._validate(trainer, pl_module)
            now = time.perf_counter()  # a step does not count it
        self.begin, self.waited, self.padding, self.positions = now, waited, 0, 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.stop()
        note_rate(STEPS, self.seconds, self.steps)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()

    def _validate(self, trainer: pl.Trainer, module: PreferenceModule) -> None:
        assert self.validation is not None
        self.bar.stop()  # a validation shows bars of its own
        metrics = self.validation(trainer, module)
        for logger in module.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        self.best.add(trainer.global_step, {**module.latest, **metrics})
        self._stop_early(trainer)
        self.bar.start()

    def _stop_early(self, trainer: pl.Trainer) -> None:
        """All ranks know the same metrics, so all stop after the same step."""
        if self.best.exhausted:
            log.info("stopped early after step %d: the best was step %d", trainer.global_step, self.best.steps[0])
            trainer.should_stop = True

    def _show(self, trainer: pl.Trainer, module: PreferenceModule) -> None:
        """Epochs are counted from 1, and steps over the whole run."""
        epochs, loss = trainer.max_epochs or 1, module.latest.get("train/loss")
        text = f"epoch {min(trainer.current_epoch + 1, epochs)}/{epochs}" + (f", loss {loss:.4f}" if loss else "")
        self.bar.update(self.bar.task_ids[0], completed=trainer.global_step, description=text)
