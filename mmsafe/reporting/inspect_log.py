"""Runs as logs of Inspect (https://inspect.aisi.org.uk), written by its own classes: `inspect view` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe import __version__
from mmsafe.core.storage import needs_room
from mmsafe.evaluation.stages import JudgementRow
from mmsafe.reporting.run_samples import VERDICT, Sample, SampledRun, encodable, named, thumbnail

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage


def write_inspect_logs(runs: Sequence[SampledRun], folder: Path) -> None:
    """One `.eval` file for each run."""
    from inspect_ai.log import write_eval_log

    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        date = run.judged_at.isoformat().replace(":", "-")
        path = folder / f"{date}_{run.benchmark.name}_{run.file_name}.eval"
        with needs_room(path):
            write_eval_log(inspect_log(run), str(path), format="eval")


def inspect_log(run: SampledRun) -> EvalLog:
    """A run: each verdict is one score with three values, whose means are shares of the responses.

    The run's own metrics and config are the metadata of results and task. Pictures are thumbnails, with the image's
    name and key beside them.
    """
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalScore, EvalSpec

    ids = [sample.prompt.id for sample in run.samples]
    verdicts = [_verdict(sample.judgement) for sample in run.samples]
    shares = {name: sum(verdict[name] for verdict in verdicts) / len(ids) for name in VERDICT}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=run.judged_at.isoformat(),
            task=run.benchmark.name,
            dataset=EvalDataset(name=run.benchmark.name, samples=len(ids), sample_ids=ids, shuffled=False),
            model=f"mmsafe/{run.file_name}",
            config=EvalConfig(epochs=1),
            packages={"mmsafe": __version__},
            metadata={"config": run.config},
        ),
        results=EvalResults(
            total_samples=len(ids),
            completed_samples=len(ids),
            scores=[
                EvalScore(name=name, scorer=run.judge, metrics={"mean": EvalMetric(name="mean", value=share)})
                for name, share in shares.items()
            ],
            metadata=dict(run.metrics),
        ),
        samples=[_sample(sample, run) for sample in run.samples],
    )


def _sample(sample: Sample, run: SampledRun) -> EvalSample:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    prompt, judgement = sample.prompt, sample.judgement
    response = encodable(sample.generation["response"])
    output = ModelOutput.from_content(
        f"mmsafe/{run.file_name}", response, stop_reason="stop" if sample.generation["finished"] else "max_tokens"
    )
    score = Score(
        value=_verdict(judgement),
        answer=response,
        explanation=encodable(judgement["reply"]),
        metadata=encodable({name: value for name, value in judgement.items() if name not in (*VERDICT, "reply")}),
    )
    question = _messages(sample)
    return EvalSample(
        id=prompt.id,
        epoch=1,
        input=question,
        target="",
        messages=[*question, output.message],
        output=output,
        scores={run.judge: score},
        metadata={"tags": dict(prompt.tags), "criterion": sample.criterion, "images": named(prompt.images)},
    )


def _verdict(judgement: JudgementRow) -> dict[str, Any]:
    return {name: value for name, value in judgement.items() if name in VERDICT}


def _messages(sample: Sample) -> list[ChatMessage]:
    from inspect_ai import model

    messages: list[ChatMessage] = []
    kinds = {"system": model.ChatMessageSystem, "user": model.ChatMessageUser, "assistant": model.ChatMessageAssistant}
    for turn, parts in sample.prompt.contents():
        content: list[model.Content] = [
            model.ContentText(text=part) if isinstance(part, str) else model.ContentImage(image=thumbnail(part))
            for part in parts
        ]
        messages.append(kinds[turn.role](content=content))
    return messages
