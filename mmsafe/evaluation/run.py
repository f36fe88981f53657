"""Evaluate a model: generate, judge, measure; each stage leaves its file in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmsafe.data.responses import responses
from mmsafe.data.source import DataSource
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.judges.base import Judge
from mmsafe.evaluation.measuring import flat, measured
from mmsafe.evaluation.pairwise import pairwise_accuracy
from mmsafe.evaluation.stages import judge_answers, write_generations
from mmsafe.models.llava import Llava
from mmsafe.models.loading import set_aside
from mmsafe.ranks import is_first
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.scoring import Scoring
from mmsafe.settings import Evaluation


def evaluate(
    llava: Llava,
    *,
    reference: ReferencePolicy | None,
    data: DataSource,
    part: Part,
    benchmark: Benchmark,
    judge: Judge,
    scoring: Scoring,
    settings: Evaluation,
    folder: Path,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Flat metrics `eval/<name>` with `_low`, `_high` (95 %) and `_n` beside each; none in processes but the first.

    All processes of a run call it and share the model's work, and the judge's where it is a model on the same devices,
    which it has to itself then. The first one writes `generations.jsonl` and `judgements.jsonl` into `folder`.
    `reference`, which has seen the benchmark's pairs, adds accuracy by implicit reward, which wants the `precision`
    that the reference was scored in.
    """
    prompts = benchmark.prompts(data, part)
    made = responses(llava, prompts, settings.generation(), f"{benchmark.name}: answers")
    answers = [(answer.text, answer.finished) for answer in made]
    judged: list[Judged] = []
    if is_first():
        write_generations(folder, benchmark, prompts, answers)
    if judge.on_devices:
        with set_aside(llava):
            judged = judge_answers(folder, benchmark, judge, prompts, answers)
    elif is_first():
        judged = judge_answers(folder, benchmark, judge, prompts, answers)
    pairs = benchmark.pairs(data, part)
    told = (llava, reference, pairs, scoring, settings.batch_size, precision, benchmark.tags)
    compared = pairwise_accuracy(*told) if pairs else {}
    return {**measured(benchmark, judged, judge.label), **flat(compared)} if is_first() else {}
