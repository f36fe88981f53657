"""What a run is about to do, in its order: with counts where they are known, and without times, which are not."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsafe.data.data_source import GENERATED
from mmsafe.data.example import Example
from mmsafe.evaluation.measuring import EvaluationTask
from mmsafe.reference.reference import Cached

if TYPE_CHECKING:
    from mmsafe.experiment.train_config import TrainConfig

log = logging.getLogger(__name__)


def tell_training(config: TrainConfig, examples: Sequence[Example], task: EvaluationTask | None) -> None:
    """Log what `mmsafe.train` does after it has read `examples`."""
    made = sorted(config.objective.responses & set(GENERATED))
    lacking = [example for example in examples if set(made) - example.responses.keys()]
    count = len(examples) + len(lacking) * (config.generation.num_return_sequences - 1)
    stages = []
    if lacking:
        stages.append(f"{' and '.join(made)} responses for {len(lacking)} examples")
    if config.objective.needs_reference and isinstance(config.reference, Cached):
        stages.append(f"reference log-probs of {count} examples")
    stages.append(f"train {_extent(config, count * len(config.objective.groups))}")
    if config.evaluate and task is not None:
        stages += _of_evaluation(task)
    _tell(stages)


def tell_evaluation(task: EvaluationTask) -> None:
    """Log what `mmsafe.evaluate` does."""
    _tell(_of_evaluation(task))


def _of_evaluation(task: EvaluationTask) -> list[str]:
    answers = f"answers to {len(task.prompts())} prompts of {task.benchmark.name}"
    return [answers, f"verdicts of {task.judge.label}", "metrics"]


def _extent(config: TrainConfig, items: int) -> str:
    """Steps are fewer where examples turn out to be too long."""
    trainer, data = config.trainer, config.data
    if trainer.max_steps != -1:
        return f"{trainer.max_steps} steps"
    if data.max_tokens is not None:
        return f"{trainer.max_epochs} epochs"
    batches = math.ceil(items / (data.batch_size * trainer.processes))
    return f"at most {trainer.max_epochs * math.ceil(batches / config.accumulate)} steps"


def _tell(stages: Sequence[str]) -> None:
    log.info(
        "to do, except for what is in the cache: %s",
        " · ".join(f"{number} {stage}" for number, stage in enumerate(stages, 1)),
    )
