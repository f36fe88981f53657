"""Runs as `samples_{task}_{date}.jsonl`, laid out as lm-evaluation-harness lays them out with `--log_samples`."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsafe.core.files import write_rows
from mmsafe.reporting.run_samples import VERDICT, Sample, SampledRun, named


def write_lm_eval_samples(runs: Sequence[SampledRun], folder: Path) -> None:
    """One file for each run, in a sub-folder called by it."""
    for run in runs:
        date = run.judged_at.replace(tzinfo=None).isoformat().replace(":", "-")
        path = folder / run.file_name / f"samples_{run.benchmark.name}_{date}.jsonl"
        longest = run.config["evaluation"]["max_new_tokens"]
        write_rows(path, [_row(number, sample, longest) for number, sample in enumerate(run.samples)])


def _row(number: int, sample: Sample, longest: int) -> dict[str, Any]:
    """A row; there is no target to hit, and the image stands there by name and key."""
    prompt, judgement = sample.prompt, dict(sample.judgement)
    doc = {
        "id": prompt.id,
        "question": prompt.turns[-1].text,
        "images": named(prompt.images),
        "tags": dict(prompt.tags),
    }
    prompt_text = json.dumps(prompt.messages())
    settings = {"do_sample": False, "temperature": 0, "max_gen_toks": longest, "until": []}
    return {
        "doc_id": number,
        "doc": doc,
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": prompt_text, "arg_1": settings}},
        "resps": [[sample.generation["response"]]],
        "filtered_resps": [sample.generation["response"]],
        "filter": "none",
        "metrics": list(VERDICT),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt_text),
        "target_hash": _hash(""),
        **{name: int(bool(judgement[name])) for name in VERDICT},
        "judgement": judgement,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
