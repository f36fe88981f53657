"""What every job with a run folder does: claim the folder, make what is not there yet, finish it, show the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsafe.core.ranks import is_first
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Part
from mmsafe.evaluation.measuring import EvaluationTask, declaration
from mmsafe.objectives.base import PAIR
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.experiment.evaluate_config import EvaluateConfig
    from mmsafe.experiment.train_config import TrainConfig

log = logging.getLogger(__name__)


def complete(folder: RunFolder, make: Callable[[RunFolder], dict[str, Any]]) -> dict[str, Any]:
    """The metrics of the run in `folder`: those of a finished one, else what `make` returns, with which it is finished.

    Raises `UserError` if the folder holds a run of another config.
    """
    metrics = folder.claim()
    if metrics is None:
        metrics = make(folder)
        folder.finish(metrics)
    return metrics


def show(
    benchmark: Benchmark,
    metrics: dict[str, Any],
    folder: RunFolder,
    title: str,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Print what an evaluation found, or several side by side in `columns`, and the benchmark's own tables."""
    if is_first():
        table = result_table(columns or {"model": metrics}, title, folder.declared(metrics), tags=True)
        print_tables([table, *benchmark.report(metrics, folder.path)])


def declare(task: EvaluationTask, metrics: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Record what `metrics`, which are returned, mean, and what kind of evidence the verdicts and intervals are."""
    judge = task.judge
    evidence = {label: one.evidence for label, one in {**judge.panel, judge.label: judge}.items()}
    folder.note(declared=declaration(task.benchmark, evidence, metrics).record() | {"clusters": task.clusters})
    return metrics


def evaluation_task(config: TrainConfig | EvaluateConfig, part: Part, precision: str = "32-true") -> EvaluationTask:
    """The evaluation that `config` describes; by itself it casts nothing, the weights are taken as they are."""
    return EvaluationTask(
        config.benchmark,
        config.data,
        part,
        config.benchmark.judge_for(config.judge),
        config.scoring,
        config.evaluation,
        config.lengths,
        precision,
        getattr(config, "leakage", False),
    )


def tell(task: EvaluationTask | None, before: Sequence[str] = ()) -> None:
    """Log the stages of an evaluation, and those `before` it."""
    stages = list(before)
    if task is not None:
        stages += [f"answers to {len(task.prompts())} prompts", f"verdicts of {task.judge.label}", "metrics"]
    log.info("to do, unless cached: %s", " · ".join(f"{number} {stage}" for number, stage in enumerate(stages, 1)))


def training(config: TrainConfig, examples: Sequence[Example]) -> list[str]:
    """The stages of `mmsafe.train` after it has read `examples`; steps are fewer where some turn out to be too long."""
    trainer, data, made = config.trainer, config.data, config.objective.sampled - PAIR.keys()
    lacking = sum(not made <= example.responses.keys() for example in examples)
    ranked = config.objective.ranked
    count = len(examples) + lacking * (config.generation.num_return_sequences - 1)
    batches = math.ceil(count * len(config.objective.groups) / (data.batch_size * trainer.processes))
    steps = trainer.max_epochs * math.ceil(batches / config.accumulate)
    extent = f"at most {steps} steps" if data.max_tokens is None else f"{trainer.max_epochs} epochs"
    stages = [f"{ranked} responses to each of {count} prompts, ranked by {config.judge.label}"] if ranked else []
    stages += [f"{' and '.join(sorted(made))} responses for {lacking} examples"] if lacking else []
    stages += [f"reference log-probs of {count} examples"] if config.objective.needs_reference else []
    return [*stages, f"train {extent if trainer.max_steps == -1 else f'{trainer.max_steps} steps'}"]
