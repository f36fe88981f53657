"""The README.md of an exported model: what its run recorded, as the hub reads it, without places of a machine."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from mmsafe.core.run_record import ABOUT
from mmsafe.reporting.summary import Run, read_runs

SECTIONS = {
    "Recipe": {"seed", "model", "objective", "optimizer", "peft", "trainer", "reference", "generation", "corruption"},
    "Data": {"data", "examples", "lengths"},
    "Versions": {"mmsafe", "git_commit", "python", "versions", "hardware"},
}
"""Parts of what a run recorded, and where they stand."""


def model_card(checkpoint: Path, name: str) -> str:
    """The card of the model in the run folder `checkpoint`, or in a folder of one; a short one for other models."""
    folder = next((place for place in (checkpoint, checkpoint.parent) if (place / ABOUT).is_file()), None)
    run = Run(checkpoint, {}, {}) if folder is None else read_runs([folder])[0]
    measured = run.declared.measured([run.metrics])
    results = [
        (_inert(metric.label), *(run.metrics.get(f"{metric.key}{end}") for end in ("", "_low", "_high", "_n")))
        for metric in measured
    ]
    about = {f"{key}.fingerprint" if key in ("data", "model") else key: value for key, value in run.about.items()}
    facts = {**run.config, **about}
    benchmark = _inert(str(run.config.get("benchmark._target_")).rpartition(".")[2])
    data = ModelCardData(
        base_model=_hub_name(run.config.get("model.path")),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["mmsafe", "safety"],
        model_name=name,
        eval_results=[
            EvalResult("image-text-to-text", "mmsafe", benchmark, _inert(metric.name), run.metrics[metric.key])
            for metric in measured
        ]
        or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).parent / "templates" / "model_card.md.j2"),
        name=name,
        benchmark=benchmark,
        judge=_inert(run.declared.judged_by([run.metrics]) or ""),
        overrides=[tuple(map(_inert, word.split("=", 1))) for word in run.overrides],
        results=results,
        sections={
            title: [(_inert(k), _inert(v)) for k, v in facts.items() if k.partition(".")[0] in keys and v is not None]
            for title, keys in SECTIONS.items()
        },
        recorded=folder is not None,
    )
    return str(card)


def _hub_name(path: Any) -> str | None:
    """The path where it surely is a name of the hub: that of a model that was fetched from there."""
    try:
        return path if isinstance(try_to_load_from_cache(str(path), "config.json"), str) else None
    except HFValidationError:
        return None


def _inert(value: Any) -> str:
    """A value in one line of plain text; what may be a place on a machine is left out."""
    text = " ".join(str(value).split())
    return "(a path)" if re.search(r"[/\\~]", text) else re.sub(r"[`|<>\[\]{}*!]", " ", text)[:200]
