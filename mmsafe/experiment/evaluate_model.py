"""Evaluate a model in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmsafe.evaluation.evaluating import evaluate, prepare_reference
from mmsafe.experiment.job import declare, evaluation_task
from mmsafe.models.loading import from_checkpoint, on_device, own_device
from mmsafe.reference.cached import CachedLogProbs

if TYPE_CHECKING:
    from mmsafe.evaluation.measuring import EvaluationTask
    from mmsafe.experiment.evaluate_config import EvaluateConfig
    from mmsafe.models.llava import Llava
    from mmsafe.reference.policies import ReferencePolicy
    from mmsafe.runs.run_folder import RunFolder


def ask_model(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    """The metrics of `config.checkpoint`, or of the model of `config.model` where it is null."""
    task = evaluation_task(config, "test")
    own_device(config.accelerator)  # refused before a model is loaded, as is a judge or a file that is not there
    task.judge.check()
    task.prompts()
    llava = from_checkpoint(config.checkpoint, "checkpoint", config.model)
    folder.note(seed=config.seed, model=llava.fingerprint())
    reference = _against(config, llava, task) if config.against else None
    llava = on_device(llava, config.accelerator)
    folder.note(dropped_prompts=task.dropped())
    metrics = evaluate(llava, task, folder.path, reference)
    return declare(task.benchmark, task.judge, metrics, folder)


def _against(config: EvaluateConfig, llava: Llava, task: EvaluationTask) -> ReferencePolicy:
    """Log-probs of the benchmark's pairs under the model of `config.against`, which is there only while they are made.

    It is shown what `llava` is shown: both are scored on the same tokens and pixels.
    """
    model = from_checkpoint(config.against, "against", config.model).model
    against = on_device(replace(llava, model=model, adapter=None), config.accelerator)
    reference = CachedLogProbs(against, task.scoring, task.precision)
    prepare_reference(reference, against, task)
    reference.let_go()
    return reference
