"""What every job with a run folder does: claim the folder, make what is not there yet, finish it, show the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmsafe.core.ranks import is_first
from mmsafe.evaluation.benchmark import Benchmark, Part
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.measuring import EvaluationTask, declaration
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.experiment.evaluate_config import EvaluateConfig
    from mmsafe.experiment.train_config import TrainConfig


def complete(folder: RunFolder, make: Callable[[RunFolder], dict[str, Any]]) -> dict[str, Any]:
    """The metrics of the run in `folder`: those of a finished one, else what `make` returns, with which it is finished.

    Raises `UserError` if the folder holds a run of another config.
    """
    metrics = folder.claim()
    if metrics is None:
        metrics = make(folder)
        folder.finish(metrics)
    return metrics


def show(benchmark: Benchmark, metrics: dict[str, Any], folder: RunFolder, title: str, column: str = "model") -> None:
    """Print what an evaluation found, and the benchmark's own tables."""
    if is_first():
        table = result_table({column: metrics}, title, folder.declared(metrics), tags=True)
        print_tables([table, *benchmark.report(metrics, folder.path)])


def declare(benchmark: Benchmark, judge: Judge, metrics: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Record what `metrics`, which are returned, mean, and what kind of evidence the verdicts of `judge` are."""
    folder.note(declared=declaration(benchmark, {judge.label: judge.evidence}, metrics).record())
    return metrics


def evaluation_task(config: TrainConfig | EvaluateConfig, part: Part, precision: str = "32-true") -> EvaluationTask:
    """The evaluation that `config` describes; by itself it casts nothing, the weights are taken as they are."""
    return EvaluationTask(
        config.benchmark,
        config.data,
        part,
        config.judge,
        config.scoring,
        config.evaluation,
        config.lengths,
        precision,
        getattr(config, "leakage", False),
    )
