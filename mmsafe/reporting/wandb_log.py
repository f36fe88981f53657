"""Weights & Biases: one run per job, offline where there is no key, and never a secret in what is sent."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import is_first
from mmsafe.core.secrets import public
from mmsafe.reporting.logged_run import LONGEST_TAG, LoggedRun

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

    from mmsafe.reporting.run_samples import Sample, SampledRun

log = logging.getLogger(__name__)
COLUMNS = ("id", "image", "instruction", "response", "verdict", "category", "judge")


def wandb_logger(
    run: LoggedRun, *, project: str, group: str | None, job_type: str | None, tags: Sequence[str]
) -> WandbLogger:
    """A logger whose run keeps its files in `run.folder/wandb`.

    What looks like a secret in the config is left out. The run begins with the first thing that is logged.
    """
    from pytorch_lightning.loggers import WandbLogger
    from wandb import Settings  # from: a folder ./wandb of run files would be importable, but is empty

    finish(exit_code=1)  # an open run is that of a job that died, and would take in what this one logs
    # The metadata would hold the whole command line, the git state a remote's URL with the token in it, and the console
    # whatever a job prints. run.json tells where a result comes from.
    settings = Settings(console="off", x_disable_meta=True, disable_git=True, disable_code=True)
    if (offline := is_offline()) and is_first():
        runs = f"{shlex.quote(str(run.folder / 'wandb'))}/offline-run-*"
        log.warning(
            "no Weights & Biases key, so the run stays on disk; to upload: `wandb login`, `wandb sync %s`", runs
        )
    run.folder.mkdir(parents=True, exist_ok=True)  # wandb would silently write to a temporary folder instead
    return WandbLogger(
        name=public({"name": run.name})["name"],
        id=run.id,
        save_dir=run.folder,
        project=project,
        group=group or run.sweep,
        job_type=job_type or run.command,
        tags=[*tags, *(choice[:LONGEST_TAG] for choice in run.choices)],
        config={**public(run.config), **({"sweep": run.sweep} if run.sweep else {})},
        settings=settings,
        # Not `offline=True`, with which Lightning sets WANDB_MODE for the rest of the process.
        mode="offline" if offline else None,
    )


def finish(exit_code: int = 0) -> None:
    """End the run of this process, if there is one, so that the next job gets its own; not 0: the job failed."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=exit_code)


def log_result(logger: Any, metrics: Mapping[str, Any], folder: Path, samples: int) -> None:
    """All `metrics` as the run's summary; a table of so many prompts, spread over the evaluation in `folder`."""
    from mmsafe.evaluation.stages import JUDGEMENTS

    logger.experiment.summary.update(dict(metrics))
    if samples and (folder / JUDGEMENTS).exists():
        from mmsafe.reporting.run_samples import read_samples

        (run,) = read_samples([folder])
        spread = run.samples[:: max(1, len(run.samples) // samples)]
        logger.log_table("samples", list(COLUMNS), [_row(sample) for sample in spread[:samples]])


def log_answers(logger: Any, step: int, runs: Sequence[SampledRun], samples: int) -> None:
    """A table in which the answers of all runs to so many prompts stand below each other."""
    rows = [(run.label, *_row(run.samples[i])) for i in range(samples) for run in runs if i < len(run.samples)]
    if rows:
        logger.log_table("validation", ["model", *COLUMNS], rows, step=step)


def is_offline() -> bool:
    """Whether runs stay on disk because no key can be found; `WANDB_MODE` or `wandb offline` decide where used."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    if settings.mode != "online":
        return False
    try:
        key = os.environ.get("WANDB_API_KEY") or settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
        problem = wbauth.check_api_key(key) if key else None
    except wandb.errors.AuthenticationError as error:
        problem = str(error)
    if problem:
        raise UserError(f"Weights & Biases: {problem} Repeat `wandb login`, or set WANDB_MODE=offline")
    return not key


def _row(sample: Sample) -> tuple[Any, ...]:
    """As in `COLUMNS`."""
    from wandb import Image

    from mmsafe.reporting.run_samples import encodable, side_by_side

    prompt, judgement = sample.prompt, sample.judgement
    shown = Image(side_by_side(prompt.images)) if prompt.images else None
    prompt_text = encodable("\n".join(f"{turn.role}: {turn.text}" for turn in prompt.turns))
    verdict = " ".join(word for word in ("unknown", "unsafe", "refused") if dict(judgement)[word]) or "safe"
    response = encodable(sample.generation["response"])
    return (prompt.id, shown, prompt_text, response, verdict, judgement["category"], judgement["judge"])
