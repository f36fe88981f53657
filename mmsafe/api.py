"""The Python API, as `mmsafe` offers it: commands as functions, and what they do to examples. See docs/api.md."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.core.command_line import as_if_typed, as_text, quoted
from mmsafe.core.config import TARGET, built
from mmsafe.core.endings import STOP, ended_at_once
from mmsafe.core.errors import UserError
from mmsafe.core.ranks import QUIET, is_first
from mmsafe.core.secrets import MaskedRecord
from mmsafe.data.example import Example
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.reporting.run_samples import read_samples
from mmsafe.reporting.summary import Run, read_runs
from mmsafe.runs.app import Job, Root, launch
from mmsafe.runs.hydra_state import restoring
from mmsafe.runs.preflight import check
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.models.vlm import VLM

__all__ = ["Run", "UserError", "blind", "evaluate", "load", "read_samples", "score", "train"]
Place = str | os.PathLike[str]


def train(*overrides: str, out: Place | None = None) -> Run:
    """Train a policy as `python -m mmsafe.train` does; goes on with what is in `out`, or returns what is finished."""
    from mmsafe.train import job

    return _call("train", TrainConfig, job, overrides, out)


def evaluate(model: Place, *overrides: str, out: Place | None = None) -> Run:
    """Measure a model, named as for `load`, on a benchmark as `python -m mmsafe.evaluate` does."""
    from mmsafe.evaluate import job

    return _call("evaluate", EvaluateConfig, job, [_named(model), *overrides], out)


def load(model: Place, *overrides: str) -> VLM:
    """Load a `Run`, a folder of a run or checkpoint, or a choice of `conf/model`, such as "tiny", onto its device."""
    from mmsafe.models.loading import from_checkpoint, on_device

    with _left_as_it_was("evaluate", words := [_named(model), *overrides]):
        (config,) = check("evaluate", EvaluateConfig, words)
        return on_device(from_checkpoint(config.checkpoint, "checkpoint", config.model), config.accelerator)


def score(model: VLM, examples: Sequence[Example], reference: VLM | None = None) -> list[dict[str, float]]:
    """log π(y|x) of every response of each example, by its name: summed over all its tokens, in nats.

    With a `reference`, log π(y|x) - log π_ref(y|x): times β, DPO's implicit reward. Examples have the same responses.
    """
    from mmsafe.generation.generate import evaluating
    from mmsafe.objectives.base import ScoredRow
    from mmsafe.reference.policies import Model
    from mmsafe.scoring.collate import Items
    from mmsafe.scoring.ways import SharedPrefix

    rows = {name: ScoredRow(name) for name in (examples[0].responses if examples else ())}
    if other := [example.id for example in examples if not rows or example.responses.keys() != rows.keys()]:
        raise UserError(f"example {other[0]}: has other responses than the first, or none; score those by themselves")
    items, collator, sums = Items(examples, 1), SharedPrefix().collator(model.encoder(), (rows,)), []
    for vlm in [model, *([reference] if reference else [])]:  # both on the same tokens and pixels
        with evaluating(vlm.model):
            sums.append(Model(vlm.model, SharedPrefix()).sums(items, collator, 8, vlm.model.device))
    before = sums[1] if reference else [dict.fromkeys(rows, (0.0, 0))] * len(items)
    return [{name: now[name][0] - then[name][0] for name in rows} for now, then in zip(sums[0], before, strict=True)]


def blind(model: VLM, examples: Sequence[Example], n: int = 1, **sampling: Any) -> list[Example]:
    """The examples with `n` blind responses, sampled without the image or found in the cache; each becomes `n`.

    One that brings a `blind` response keeps it. `sampling`: options of `conf/generation/default.yaml`.
    """
    from mmsafe.generation.blinding import BLIND, with_generated_responses

    options = {TARGET: "mmsafe.core.settings.Generation", "num_return_sequences": n, **sampling}
    return with_generated_responses(model, examples, {BLIND}, built(options, "blind"))


def _call(command: str, root: type[Root], job: Job[Root], overrides: Sequence[str], out: Place | None) -> Run:
    """Run `job` in this process as the command would.

    Raises `UserError` where the command ends with one line and status 2. SIGTERM and SIGINT stop the job as they stop
    the command, and are then left to the caller's own handlers: of SIGINT that is `KeyboardInterrupt`.
    """
    words = [*overrides, *([] if out is None else [f"hydra.run.dir={quoted(os.fspath(out))}"])]
    folders: list[Path] = []
    errors: list[Exception] = []

    @contextmanager
    def caught(run: RunContext) -> Iterator[None]:
        folders.append(Path(os.path.relpath(run.folder)))
        try:
            yield
        except Exception as error:  # Hydra would print it
            errors.append(error)

    try:
        with _left_as_it_was(command, words), ended_at_once():
            launch(command, root, job, [*words, *QUIET[1:] * is_first()], caught)  # logging is the caller's
    except SystemExit as end:
        if isinstance(end.code, int) and end.code - 128 in STOP:
            signal.raise_signal(end.code - 128)
        raise UserError(f"mmsafe.{command}: ended with status {end.code}; its output says why") from end
    for error in errors:
        raise error
    return read_runs(folders)[0]


@contextmanager
def _left_as_it_was(command: str, words: Sequence[str]) -> Iterator[None]:
    """Around a call with `words`, which ask for one job; afterwards the process is as it was before."""
    for word in words:
        if word.startswith(("-", "sweep=", "hydra.mode=")) and word != "--config-dir":
            raise UserError(f"{word}: is for the command line, python -m mmsafe.{command}; a call runs one job")
    with ExitStack() as after:
        after.callback(os.environ.update, dict(os.environ))
        after.callback(os.environ.clear)
        after.callback(restoring())
        after.enter_context(as_if_typed([f"mmsafe.{command}", *words]))  # for the record of the run
        after.callback(logging.setLogRecordFactory, logging.getLogRecordFactory())
        logging.setLogRecordFactory(MaskedRecord)
        after.callback(asyncio._set_running_loop, asyncio._get_running_loop())
        asyncio._set_running_loop(None)  # a notebook's, which waits, and would forbid any other
        yield


def _named(model: Place) -> str:
    """The override that chooses a model: a text without `/` names a choice."""
    is_choice = isinstance(model, str) and "/" not in model
    return f"model={as_text(model)}" if is_choice else f"checkpoint={quoted(os.fspath(model))}"
