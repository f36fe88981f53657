"""Runs as logs of Inspect (https://inspect.aisi.org.uk), written by its own classes: `inspect view` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe import __version__
from mmsafe.core.errors import UserError
from mmsafe.core.storage import needs_room
from mmsafe.evaluation.stages import JudgementRow
from mmsafe.reporting.run_samples import Sample, SampledRun, thumbnail

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage

VERDICT = ("unsafe", "refused", "unknown")


def check_installed() -> None:
    """Raise `UserError` if Inspect is not installed."""
    if find_spec("inspect_ai") is None:
        raise UserError("format=inspect: inspect_ai is not installed; run pip install 'mmsafe[inspect]'")


def write_inspect_logs(runs: Sequence[SampledRun], folder: Path) -> list[Path]:
    """One `.eval` file for each run; returns their paths."""
    from inspect_ai.log import write_eval_log

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for run in runs:
        date = run.judged_at.isoformat().replace(":", "-")
        path = folder / f"{date}_{run.benchmark.name}_{run.file_name}.eval"
        with needs_room(path):
            write_eval_log(inspect_log(run), str(path), format="eval")
        paths.append(path)
    return paths


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

    prompt, generation, judgement = sample.prompt, sample.generation, sample.judgement
    image = {"name": prompt.image.name, "key": prompt.image.key} if prompt.image else None
    output = ModelOutput.from_content(
        f"mmsafe/{run.file_name}",
        _encodable(generation["response"]),
        stop_reason="stop" if generation["finished"] else "max_tokens",
    )
    score = Score(
        value=_verdict(judgement),
        answer=_encodable(generation["response"]),
        explanation=_encodable(judgement["reply"]),
        metadata=_encodable({name: value for name, value in judgement.items() if name not in (*VERDICT, "reply")}),
    )
    asked = _messages(sample)
    return EvalSample(
        id=prompt.id,
        epoch=1,
        input=asked,
        target="",
        messages=[*asked, output.message],
        output=output,
        scores={run.judge: score},
        metadata={"tags": dict(prompt.tags), "criterion": sample.criterion, "image": image},
    )


def _verdict(judgement: JudgementRow) -> dict[str, Any]:
    return {name: value for name, value in judgement.items() if name in VERDICT}


def _messages(sample: Sample) -> list[ChatMessage]:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, Content, ContentImage, ContentText

    found: list[ChatMessage] = []
    for turn in sample.prompt.turns:
        content: list[Content] = [ContentText(text=turn.text)]
        if turn.image and sample.prompt.image is not None:
            content = [ContentImage(image=thumbnail(sample.prompt.image)), *content]
        found.append(ChatMessageUser(content=content) if turn.role == "user" else ChatMessageAssistant(content=content))
    return found


def _encodable(value: Any) -> Any:
    """Halves of surrogate pairs as `\\ud83d`: Inspect's files are UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    return value
