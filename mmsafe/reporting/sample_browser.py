"""One HTML page that shows runs side by side, prompt by prompt; it needs no network, and nothing in it can run."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsafe.core.files import write_atomically
from mmsafe.core.progress import progress
from mmsafe.data.example import Example, ImageSource
from mmsafe.data.images import in_threads
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.publishing import without_folders
from mmsafe.reporting.run_samples import VERDICT, Sample, SampledRun, thumbnail

MOST_VALUES = 60
"""Of a tag that one can filter by; a tag with more of them is as good as an id."""


def write_page(runs: Sequence[SampledRun], path: Path) -> None:
    """Write the page: words of data and models stand in one block of JSON, and reach the reader as text only."""
    prompts = _prompts(runs)
    values = {
        "runs": [
            {"label": run.label, "benchmark": run.benchmark.name, "judge": without_folders(run.judge)} for run in runs
        ],
        "prompts": prompts,
        "images": thumbnails([image for run in runs for sample in run.samples for image in sample.prompt.images]),
    }
    categories = sorted({a["category"] for row in prompts for a in row["answers"] if a and a["category"]})
    text = rendered(
        "samples", scripts=("articles", "samples"), data=values, categories=categories, tags=filter_tags(prompts)
    )
    write_atomically(path, text)


def prompt_fields(prompt: Example, criterion: str) -> dict[str, Any]:
    """What a page is given of any prompt, and whether it is known to be harmless, so that anybody may read it."""
    return {
        "id": prompt.id,
        "harmless": criterion == "over_refusal" or prompt.tags.get("harmful") == "no",
        "tags": dict(prompt.tags),
        "turns": [{"role": turn.role, "pieces": list(turn.pieces())} for turn in prompt.turns],
    }


def _prompts(runs: Sequence[SampledRun]) -> list[dict[str, Any]]:
    """What is the same prompt in several runs becomes one, with an answer or null for each run."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for position, run in enumerate(runs):
        for sample in run.samples:
            prompt = sample.prompt
            row: dict[str, Any] = {
                **prompt_fields(prompt, sample.criterion),
                "benchmark": sample.generation["benchmark"],
                "criterion": sample.criterion,
                "images": [image.key for image in prompt.images],
                "answers": [None] * len(runs),
            }
            row = rows.setdefault((run.benchmark.name, prompt.id, prompt.prompt_key()), row)
            row["answers"][position] = _answer(sample)
    return list(rows.values())


def _answer(sample: Sample) -> dict[str, Any]:
    judgement, generation = sample.judgement, sample.generation
    verdict = {name: dict(judgement)[name] for name in (*VERDICT, "category", "reply")}
    details = sorted(name for name, value in judgement.get("details", {}).items() if value)
    answer = {"response": generation["response"], "finished": generation["finished"]}
    return {**answer, **verdict, "details": details, "error": without_folders(judgement.get("error", ""))}


def filter_tags(prompts: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Tags that tell groups of prompts apart, with their values."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in prompts:
        for tag, value in row["tags"].items():
            values[tag].add(value)
    return {tag: sorted(tag_values) for tag, tag_values in sorted(values.items()) if 1 < len(tag_values) <= MOST_VALUES}


def thumbnails(images: Iterable[ImageSource]) -> dict[str, str]:
    """As `data:` URLs by key, each image once."""
    distinct = {image.key: image for image in images}
    with progress("thumbnails", len(distinct)) as advance:
        return in_threads(distinct, lambda key: thumbnail(distinct[key]), advance)
