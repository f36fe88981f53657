"""One HTML page that shows runs side by side, prompt by prompt; it needs no network, and nothing in it can run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmsafe.core.files import write_atomically
from mmsafe.core.progress import progress
from mmsafe.data.example import Example, ImageSource
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.run_samples import Sample, SampledRun, thumbnail

THREADS = 8
MOST_VALUES = 60
"""Of a tag that one can filter by; a tag with more of them is as good as an id."""


def write_page(runs: Sequence[SampledRun], path: Path) -> list[Path]:
    """Write the page; returns its path."""
    write_atomically(path, page(runs))
    return [path]


def page(runs: Sequence[SampledRun]) -> str:
    """The page: words of data and models stand in one block of JSON, and reach the reader as text only."""
    prompts = _prompts(runs)
    values = {
        "runs": [{"label": run.label, "benchmark": run.benchmark.name, "judge": run.judge} for run in runs],
        "prompts": prompts,
        "images": thumbnails([sample.prompt.image for run in runs for sample in run.samples]),
    }
    return rendered(
        "samples",
        scripts=("articles", "samples"),
        data=values,
        categories=sorted({a["category"] for row in prompts for a in row["answers"] if a and a["category"]}),
        tags=filter_tags(prompts),
    )


def harmless(prompt: Example, criterion: str) -> bool:
    """Whether a prompt is known to be a harmless one, so that anybody may read it unasked."""
    return criterion == "over_refusal" or prompt.tags.get("harmful") == "no"


def _prompts(runs: Sequence[SampledRun]) -> list[dict[str, Any]]:
    """What is the same prompt in several runs becomes one, with an answer or null for each run."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for position, run in enumerate(runs):
        for sample in run.samples:
            key = (run.benchmark.name, sample.prompt.id, sample.generation["prompt_hash"])
            row = rows.setdefault(key, _prompt(sample, len(runs)))
            row["answers"][position] = _answer(sample)
    return list(rows.values())


def _prompt(sample: Sample, runs: int) -> dict[str, Any]:
    prompt = sample.prompt
    return {
        "id": prompt.id,
        "benchmark": sample.generation["benchmark"],
        "criterion": sample.criterion,
        "harmless": harmless(prompt, sample.criterion),
        "image": prompt.image.key if prompt.image else None,
        "tags": dict(prompt.tags),
        "turns": [{"role": turn.role, "text": turn.text, "image": turn.image} for turn in prompt.turns],
        "answers": [None] * runs,
    }


def _answer(sample: Sample) -> dict[str, Any]:
    verdict = sample.judgement
    told = {name: verdict[name] for name in ("unsafe", "refused", "unknown", "category", "reply")}
    details = sorted(name for name, value in verdict.get("details", {}).items() if value)
    answer = {"response": sample.generation["response"], "finished": sample.generation["finished"]}
    return {**answer, **told, "details": details, "error": verdict.get("error", "")}


def filter_tags(prompts: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Tags that tell groups of prompts apart, with their values."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in prompts:
        for tag, value in row["tags"].items():
            values[tag].add(value)
    return {tag: sorted(found) for tag, found in sorted(values.items()) if 1 < len(found) <= MOST_VALUES}


def thumbnails(images: Sequence[ImageSource | None]) -> dict[str, str]:
    """As `data:` URLs by key, each image once."""
    distinct = {image.key: image for image in images if image is not None}
    found = {}
    with progress("thumbnails", len(distinct)) as advance, ThreadPoolExecutor(THREADS) as pool:
        for key, url in zip(distinct, pool.map(thumbnail, distinct.values()), strict=True):
            found[key] = url
            advance(1)
    return found
