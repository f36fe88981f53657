"""`mmsafe.evaluate`: ask a model here or one that is served, or go on from what another run left behind.

What loads torch's and transformers' model code is imported where a model is asked in this process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.core.declared import declared_of
from mmsafe.core.files import write_atomically
from mmsafe.core.ranks import is_first
from mmsafe.core.rates import rates_of
from mmsafe.core.run_record import about_run, maker_of
from mmsafe.core.terminal import loading
from mmsafe.evaluation import stages
from mmsafe.evaluation.defences.defence import Answerer, of_defence, refuse_selector
from mmsafe.evaluation.dialogue import Answers, in_turns
from mmsafe.evaluation.engine import Served
from mmsafe.evaluation.judging import refuse_unknown
from mmsafe.evaluation.measuring import declaration, flat, measured, panel_of
from mmsafe.experiment.job import alike, complete, declare, evaluation_task, note_trained_by, show, tell
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.data.example import Example
    from mmsafe.evaluation.measuring import EvaluationTask
    from mmsafe.experiment.evaluate_config import EvaluateConfig
    from mmsafe.generation.generate import Response
    from mmsafe.models.vlm import VLM
    from mmsafe.reference.policies import ReferencePolicy
    from mmsafe.runs.run_context import RunContext

log = logging.getLogger(__name__)


def evaluate_run(config: EvaluateConfig, run: RunContext) -> dict[str, Any]:
    """Answer, judge and measure what `config` names, or what is left to do of that; returns the metrics."""
    make, title = _stages(config)
    folder = RunFolder(run.folder, run.cfg)
    metrics = complete(folder, make)
    show(config.benchmark, metrics, folder, title)
    return metrics


def _stages(config: EvaluateConfig) -> tuple[Callable[[RunFolder], dict[str, Any]], str]:
    """What has to be done, and what the table of its result is called."""
    if config.judgements is not None:
        source = Path(config.judgements)
        return partial(_measure_again, config, source), str(source)
    if config.generations is not None:
        source = Path(config.generations)
        return partial(_judge_again, config, source), str(source)
    behind = f" + {config.defence.name}" if config.defence else ""
    if isinstance(config.generation, Served):
        return partial(_ask_served, config, config.generation), config.generation.model + behind
    return partial(_ask_model, config), (config.checkpoint or "base") + behind


def _measure_again(config: EvaluateConfig, source: Path, folder: RunFolder) -> dict[str, Any]:
    """From the verdicts in the run folder `source`, which are copied; raises `UserError` where they do not fit."""
    task, prompts = _taken_over(config, source, folder)
    judged, judge = stages.read_judgements(source, config.benchmark, prompts)
    _copy(source / stages.GENERATIONS, folder)
    _copy(source / stages.JUDGEMENTS, folder)
    chosen, panel = config.benchmark.judge_for(config.judge), panel_of(judged) or {judge: judged}
    for label, rows in panel.items():
        refuse_unknown(rows, label, chosen.max_unknown)
    metrics = measured(config.benchmark, judged, judge, task.clusters) | flat(of_defence(source, task.clusters)[1])
    known = {chosen.label: chosen.evidence, **declared_of(source, {}).judges}
    evidence = {label: known[label] for label in (*panel, judge) if label in known}
    folder.note(declared=declaration(config.benchmark, evidence, metrics).record() | {"clusters": task.clusters})
    return metrics


def _judge_again(config: EvaluateConfig, source: Path, folder: RunFolder) -> dict[str, Any]:
    """From the answers in the run folder `source`, which are copied; raises `UserError` where they do not fit."""
    task, prompts = _taken_over(config, source, folder)
    answers = stages.read_generations(source, config.benchmark, prompts)
    refuse_selector(of_defence(source)[0], task.judge)
    _copy(source / stages.GENERATIONS, folder)
    return _judged(task, prompts, answers, folder)


def _ask_model(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    """The metrics of `config.checkpoint`, or of the model of `config.model` where it is null."""
    with loading():
        from mmsafe.evaluation.evaluating import evaluate
        from mmsafe.models.loading import from_checkpoint, on_device, own_device
    task = evaluation_task(config, "test")
    own_device(config.accelerator)  # refused before a model is loaded, as is a judge or a file that is not there
    task.check()
    task.prompts()
    vlm = from_checkpoint(config.checkpoint, "checkpoint", config.model)
    parameters = sum(parameter.numel() for parameter in vlm.model.parameters())
    with rates_of(alike(config, type(vlm.model).__name__, parameters)):
        tell(task)  # not before what can be refused in one line
        folder.note(seed=config.seed, model=vlm.fingerprint())
        note_trained_by(folder, maker_of(config.checkpoint or getattr(config.model, "path", None)))
        reference = _against(config, vlm, task) if config.against else None
        vlm = on_device(vlm, config.accelerator)
        folder.note(dropped_prompts=task.dropped())
        metrics = evaluate(vlm, task, folder.path, reference)
        return declare(task, metrics, folder)


def _against(config: EvaluateConfig, vlm: VLM, task: EvaluationTask) -> ReferencePolicy:
    """Log-probs of the benchmark's pairs under the model of `config.against`, which is there only while they are made.

    It is shown what `vlm` is shown: both are scored on the same tokens and pixels.
    """
    from mmsafe.evaluation.evaluating import prepare_reference
    from mmsafe.models.loading import from_checkpoint, on_device
    from mmsafe.reference.cached import CachedLogProbs

    model = from_checkpoint(config.against, "against", config.model).model
    against = on_device(replace(vlm, model=model, adapter=None), config.accelerator)
    reference = CachedLogProbs(against, task.scoring, task.precision)
    prepare_reference(reference, against, task)
    reference.let_go()
    return reference


def _ask_served(config: EvaluateConfig, engine: Served, folder: RunFolder) -> dict[str, Any]:
    """From the answers of a model that is served elsewhere; none is loaded."""
    task = evaluation_task(config, "test")
    task.check()
    log.info("pairwise accuracy is left out: it needs the model's own log-probs")
    prompts = task.prompts()

    def ask(due: Sequence[Example], stage: str, **sampling: Any) -> list[Response]:
        limit = config.evaluation.max_new_tokens
        return engine.responses(due, limit, f"{task.benchmark.name}: {stage}", **sampling)

    answerer = Answerer(ask)
    with rates_of(alike(config)):
        tell(task)
        folder.note(seed=config.seed, model=engine.model, dropped_prompts=task.dropped())
        answers = in_turns(prompts, lambda due: task.answers(due, answerer))
        stages.write_generations(folder.path, task.benchmark, prompts, answers)
        return _judged(task, prompts, answers, folder)


def _judged(task: EvaluationTask, prompts: Sequence[Example], answers: Answers, folder: RunFolder) -> dict[str, Any]:
    """The metrics of answers that are there."""
    judged = stages.judge_answers(folder.path, task.benchmark, task.judge, prompts, answers)
    return declare(task, measured(task.benchmark, judged, task.judge.label, task.clusters), folder)


def _taken_over(config: EvaluateConfig, source: Path, folder: RunFolder) -> tuple[EvaluationTask, list[Example]]:
    """What is asked, and the prompts, for which `source` has answers; `run.json` says from where they were taken."""
    about = about_run(source)
    folder.note(seed=config.seed, source=str(source.resolve()), model=about.get("model"))
    note_trained_by(folder, about)
    log.info("pairwise accuracy is left out: it needs the model")
    task = evaluation_task(config, "test")
    prompts = task.prompts()
    folder.note(dropped_prompts=task.dropped())
    return task, prompts


def _copy(path: Path, folder: RunFolder) -> None:
    if is_first():
        write_atomically(folder.path / path.name, path.read_text(encoding="utf-8"))
