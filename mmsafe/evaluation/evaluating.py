"""Evaluate a model: generate, judge, measure; each stage leaves its file in the run folder."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import is_first
from mmsafe.data.example import Example
from mmsafe.evaluation.answering import answered, refuse_none, too_long
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.defences.defence import FIRST, Answerer
from mmsafe.evaluation.measuring import EvaluationTask, flat, measured
from mmsafe.evaluation.pairwise import comparable, pairwise_accuracy, pairwise_ceiling, prepare_pairs
from mmsafe.evaluation.stages import judge_answers, write_generations
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import responses
from mmsafe.models.loading import set_aside
from mmsafe.models.vlm import VLM
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring.lengths import overlong


def evaluate(vlm: VLM, task: EvaluationTask, folder: Path, reference: ReferencePolicy | None = None) -> dict[str, Any]:
    """Flat metrics `eval/<name>` with `_low`, `_high` (95 %) and `_n` beside each; none in processes but the first.

    All processes of a run call it and share the model's work, and the judge's where it is a model on the same devices,
    which it has to itself then. The first one writes `generations.jsonl` and `judgements.jsonl` into `folder`.
    `reference`, which `prepare_reference` has shown the pairs, adds accuracy by implicit reward. Prompts that leave no
    room for an answer are not asked, which is an unknown verdict on each.
    """
    benchmark, judge, settings, prompts = task.benchmark, task.judge, task.settings, task.prompts()
    answerer = Answerer(partial(_responses, vlm, task), partial(set_aside, vlm))
    answers = answered(vlm, task, prompts, lambda due: task.answers(due, answerer))
    refuse_none(prompts, any(answers), task.lengths)
    judged: list[Judged] = []
    if is_first():
        write_generations(folder, benchmark, prompts, answers)
    if is_first() or judge.on_devices:
        with set_aside(vlm) if judge.on_devices else nullcontext():
            judged = judge_answers(folder, benchmark, judge, prompts, answers)
    pairs = task_pairs(task, vlm)
    measure = (vlm, reference, pairs, task.scoring, settings.batch_size, task.precision, benchmark.tags)
    compared = pairwise_accuracy(*measure, task.data.max_tokens, task.data.clusters) if pairs else {}
    compared |= pairwise_ceiling(task.data, pairs)
    return {**measured(benchmark, judged, judge.label, task.clusters), **flat(compared)} if is_first() else {}


def _responses(vlm: VLM, task: EvaluationTask, prompts: Sequence[Example], stage: str, **how: Any) -> list[Response]:
    """Raises `UserError` where a defence asks what leaves no room for an answer."""
    if stage != FIRST and overlong(prompts, vlm.encoder(), task.lengths):  # `answered` leaves out such as are first
        raise UserError(f"lengths.max_length={task.lengths.max_length}: no room for {stage} of the defence; raise it")
    return responses(vlm, prompts, replace(task.settings, **how).generation(), f"{task.benchmark.name}: {stage}")


def prepare_reference(reference: ReferencePolicy, vlm: VLM, task: EvaluationTask) -> None:
    """Let `reference` see the pairs of the task before training changes the model."""
    pairs = task_pairs(task, vlm)
    prepare_pairs(reference, vlm, pairs, task.scoring, task.settings.batch_size, task.data.max_tokens)


def task_pairs(task: EvaluationTask, vlm: VLM) -> list[Example]:
    """The pairs of responses that the model has to tell apart."""
    return comparable(task.benchmark.pairs(task.data, task.part), vlm, task.lengths)


def check_lengths(vlm: VLM, task: EvaluationTask) -> None:
    """Raise `UserError` if `task.lengths` refuses what `evaluate` would ask, which must not cost a run its training."""
    too_long(task.prompts(), vlm, task.lengths)
    task_pairs(task, vlm)
