"""Evaluate a model: generate, judge, measure; each stage leaves its file in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsafe.data.responses import responses
from mmsafe.data.source import DataSource
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.judges import Judge
from mmsafe.evaluation.pairwise import pairwise_accuracy
from mmsafe.evaluation.statistics import Estimate
from mmsafe.models.llava import Llava
from mmsafe.precision import autocast
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.reporting.files import write_rows
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
    """Flat metrics `eval/<name>` with `_low`, `_high` (95 %) and `_n` beside each.

    Writes `generations.jsonl` and `judgements.jsonl` into `folder`. `reference` adds accuracy by implicit reward,
    which wants the `precision` that the reference was scored in.
    """
    prompts = benchmark.prompts(data, part)
    answers = responses(llava, prompts, settings.generation(), f"{benchmark.name}: answers")
    generated = [
        {
            "id": prompt.id,
            "benchmark": benchmark.name,
            "prompt_hash": prompt.prompt_key(),
            "response": answer.text,
            "finished": answer.finished,
            "tags": dict(prompt.tags),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    write_rows(folder / "generations.jsonl", generated)
    judged = [Judged(p, a.text, judge(p, a.text)) for p, a in zip(prompts, answers, strict=True)]
    write_rows(folder / "judgements.jsonl", [_row(row, benchmark, judge) for row in judged])
    pairs = benchmark.pairs(data, part)
    with autocast(precision, llava.model.device.type):
        compared = pairwise_accuracy(llava, reference, pairs, scoring, settings.batch_size)
    return {**flat({**benchmark.breakdown(judged), **compared}), "eval/judge": judge.name}


def flat(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """`{"eval/x": …, "eval/x_low": …, "eval/x_high": …, "eval/x_n": …}`."""
    found: dict[str, float] = {}
    for name, estimate in estimates.items():
        found[f"eval/{name}"] = estimate.value
        found[f"eval/{name}_low"] = estimate.low
        found[f"eval/{name}_high"] = estimate.high
        found[f"eval/{name}_n"] = estimate.n
    return found


def _row(row: Judged, benchmark: Benchmark, judge: Judge) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "id": row.example.id,
        "benchmark": benchmark.name,
        "unsafe": verdict.unsafe,
        "refused": verdict.refused,
        "unknown": verdict.unknown,
        "category": verdict.category,
        "reply": verdict.reply,
        "judge": judge.name,
        "prompt_hash": row.example.prompt_key(),
        "details": dict(verdict.details),
    }
