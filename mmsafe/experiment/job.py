"""What every job with a run folder does: claim the folder, make what is not there yet, finish it, show the result."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from mmsafe.core.ranks import is_first
from mmsafe.core.rates import STEPS, rough_time
from mmsafe.core.run_record import TRAINED_BY, trained_by
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.benchmark import Benchmark, Part
from mmsafe.evaluation.defences.defence import of_defence
from mmsafe.evaluation.judges.judge import Judge, single
from mmsafe.evaluation.measuring import EvaluationTask, declaration, flat
from mmsafe.generation.blinding import to_sample
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
    """Record what `metrics`, which are returned, mean, and what kind of evidence the verdicts and intervals are.

    What the folder says of a defence is measured, too; a judge that chose the answers or what was trained on is marked.
    """
    if not metrics or not is_first():
        return metrics
    judge, (chosen_by, costs) = task.judge, of_defence(folder.path, task.clusters)
    roles = {"the answers, too: an upper bound": chosen_by, "what was trained on, too": trained_by(folder.about)}
    evidence = {}
    for label, one in {**judge.panel, judge.label: judge}.items():
        members = {member.label for member in single(one)}
        chose = [f"it chose {role}" for role, labels in roles.items() if labels & members]
        evidence[label] = "; ".join([one.evidence, *chose])
    metrics |= flat(costs)
    folder.note(declared=declaration(task.benchmark, evidence, metrics).record() | {"clusters": task.clusters})
    return metrics


def note_trained_by(folder: RunFolder, maker: Mapping[str, Any], judge: Judge | None = None) -> None:
    """Note by whose choice a model was trained: that of `judge` in this run, and of others as its `maker` says."""
    if labels := trained_by(maker) | {one.label for one in (single(judge) if judge else ())}:
        folder.note(**{TRAINED_BY: sorted(labels)})


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
        getattr(config, "defence", None),
    )


class Stage(NamedTuple):
    """What a job has to do, and how much of what `label` names, if its time can be known."""

    what: str
    label: str = ""
    amount: int = 0


def alike(config: TrainConfig | EvaluateConfig, *loaded: object) -> str:
    """Hash of what the speed of a job depends on, but for the lengths of its data; equal jobs need about as long."""
    names = ("model", "peft", "scoring", "strategy", "generation", "evaluation", "lengths")
    parts: list[object] = [{**asdict(part), "seed": None} for name in names if (part := getattr(config, name, None))]
    if trainer := getattr(config, "trainer", None):
        parts += [trainer.accelerator, trainer.processes, trainer.precision, config.objective.groups]  # type: ignore[union-attr]
        parts += [config.data.batch_size, config.data.max_tokens, config.accumulate]  # type: ignore[union-attr]
    return digest([platform.node(), type(config.data).__name__, parts, loaded])


def tell(task: EvaluationTask | None, before: Sequence[Stage] = ()) -> None:
    """Log the stages of an evaluation, and those `before` it, with a rough time where a job like it was run here."""
    stages = list(before)
    if task is not None:
        count, label = len(task.prompts()), f"judge {task.judge.label}"
        stages.append(Stage(f"answers to {count} prompts", f"{task.benchmark.name}: answers", count))
        stages.append(Stage(f"verdicts of {task.judge.label}", "" if task.judge.instant else label, count))
        stages.append(Stage("metrics"))
    lines, unknown = [], []
    for number, stage in enumerate(stages, 1):
        time = rough_time(stage.label, stage.amount)
        lines.append(f"{number} {stage.what}" + f" ({time})" * bool(time))
        unknown += [str(number)] * (bool(stage.label) and not time)
    untold = f"; no earlier run like this here tells the time of {', '.join(unknown)}" if unknown else ""
    log.info("to do, unless cached: %s%s", " · ".join(lines), untold)


def training(config: TrainConfig, examples: Sequence[Example]) -> list[Stage]:
    """The stages of `mmsafe.train` after it has read `examples`; steps are fewer where some turn out to be too long."""
    trainer, data, made = config.trainer, config.data, config.objective.sampled - PAIR.keys()
    lacking = sum(not made <= example.responses.keys() for example in examples)
    ranked = config.objective.ranked
    count = len(examples) + lacking * (config.generation.num_return_sequences - 1)
    if trainer.max_steps != -1:
        steps, extent = trainer.max_steps, f"{trainer.max_steps} steps"
    elif data.max_tokens is None:
        batches = math.ceil(count * len(config.objective.groups) / (data.batch_size * trainer.processes))
        steps = trainer.max_epochs * math.ceil(batches / config.accumulate)
        extent = f"at most {steps} steps"
    else:  # the batches alone tell how many
        steps, extent = 0, f"{trainer.max_epochs} epochs"
    (_, label), stages = to_sample(made, config.generation), list[Stage]()
    if ranked:
        what = f"{ranked} responses to each of {count} prompts, ranked by {config.judge.label}"
        stages.append(Stage(what, "responses to rank", ranked * count))
    if lacking:
        samples = lacking * config.generation.num_return_sequences
        stages.append(Stage(f"{label} for {lacking} examples", label, samples))
    if config.objective.needs_reference:
        stages.append(Stage(f"reference log-probs of {count} examples", "reference", count))
    return [*stages, Stage(f"train {extent}", STEPS if steps else "", steps)]
