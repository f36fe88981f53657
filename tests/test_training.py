"""A run that was stopped, however and whenever, ends as if it had not been: same weights, same log, bit for bit."""

import dataclasses
import multiprocessing
import os
import resource
import signal
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fitting import fitted, on_cpu, untimed
from pytorch_lightning.callbacks import Callback
from small_model import copied, of_family, small_model

from mmsafe.core.errors import UserError
from mmsafe.core.files import read_metrics
from mmsafe.core.settings import Checkpoint, Peft
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.adapters import add_lora
from mmsafe.models.family import family_of
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.sft import SFT
from mmsafe.reference.reference import Cached, Frozen
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.scoring.collate import Item, Items
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.optimizers.adafactor import Adafactor
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.adamw_8bit import AdamW8bit
from mmsafe.training.optimizers.muon import Muon

# 14 examples in batches of 4, the last one of 2: an epoch has 4 steps, a run of two epochs 8.
EXAMPLES = MicroWorld(size=14, image_size=24).train().examples
STEPS = 8

SHUFFLED: dict[str, Any] = {}
GROUPED: dict[str, Any] = {"group_by_length": True}
ACCUMULATED: dict[str, Any] = {"batch_size": 2, "accumulate": 2}  # 7 batches an epoch, again 4 steps
WORKERS: dict[str, Any] = {"num_workers": 2}
OPTIMIZERS: list[Any] = [AdamW, AdamW8bit, Adafactor, Muon]
HALF = torch.bfloat16
ROUNDINGS: list[Any] = [("nearest", torch.float32), *((kind, HALF) for kind in ("nearest", "stochastic", "kahan"))]
LOADERS = {
    "shuffled": SHUFFLED,
    "grouped": GROUPED,
    "accumulated": ACCUMULATED,
    "shuffled-workers": SHUFFLED | WORKERS,
    "grouped-workers": GROUPED | WORKERS,
}


class Result(NamedTuple):
    """What a run leaves behind."""

    weights: dict[str, torch.Tensor]
    rows: list[dict[str, float]]
    latest: dict[str, float]
    steps: int


class Stopped(Exception):  # noqa: N818  # not an error: the test's own
    """Raised in a callback."""


class StopAt(Callback):
    """Raises in `hook` once `step` optimiser steps are done and, with `batch`, so many batches of the run."""

    def __init__(self, hook: str, step: int, batch: int = 0) -> None:
        self.step, self.batch, self.batches = step, batch, 0
        setattr(self, hook, self._stop)

    def on_train_batch_start(self, *_: Any) -> None:
        self.batches += 1

    def _stop(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step >= self.step and self.batches >= self.batch:
            self.interrupt()

    def interrupt(self) -> None:
        raise Stopped


class Ask(StopAt):
    """Sends this process a signal, once: SIGTERM is what a scheduler sends before it takes the machine away."""

    def __init__(self, number: int, hook: str, step: int, batch: int = 0) -> None:
        super().__init__(hook, step, batch)
        self.numbers = [number]

    def interrupt(self) -> None:
        if self.numbers:
            os.kill(os.getpid(), self.numbers.pop())


class Kill(StopAt):
    def interrupt(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Seen(Callback):
    """Counts, by epoch, the packed lines that the model was shown."""

    def __init__(self) -> None:
        self.epochs: list[Counter[str]] = []
        self.batches = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epochs.append(Counter())

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.batches += 1
        lines = zip(batch.input_ids, batch.segment, batch.weight, strict=True)
        if self.epochs:  # none where a run is continued within one
            self.epochs[-1].update(str(ids[segment >= 0].tolist()) for ids, segment, weight in lines if weight > 0)


def run(
    folder: Path,
    *callbacks: Callback,
    every: int = 100,
    accumulate: int = 1,
    objective: Objective | None = None,
    examples: Sequence[Any] = EXAMPLES,
    family: str | None = None,
    **changes: Any,
) -> Result:
    """The one call that is interrupted and repeated."""
    llava = of_family(family_of(family)) if family else copied(small_model())
    llava.model.to(changes.pop("dtype", torch.float32))
    if (dropout := changes.pop("dropout", None)) is not None:
        add_lora(llava, Peft(method="lora", rank=4, alpha=8, dropout=dropout))
    objective, scoring = objective or DPO(), SharedPrefix()
    trainer = on_cpu(
        max_epochs=changes.pop("max_epochs", 2),
        max_steps=changes.pop("max_steps", -1),
        accumulate_grad_batches=accumulate,
    )
    given: dict[str, Any] = {"batch_size": 4, "seed": 3}
    end = fitted(
        llava,
        examples,
        objective=objective,
        scoring=scoring,
        reference=(Frozen() if family else Cached()).policy(llava, scoring, "32-true")
        if objective.needs_reference
        else None,
        optimizer=changes.pop("optimizer", AdamW(lr=1e-3, warmup_steps=2)),
        trainer=trainer,
        folder=folder,
        checkpoint=Checkpoint(every_n_steps=every),
        loggers=[CsvLog(folder)],
        callbacks=callbacks,
        **(given | changes),
    )
    weights = {name: weight.clone() for name, weight in llava.model.state_dict().items()}
    return Result(weights, read_metrics(folder / "metrics.csv"), end.latest, end.steps)


def assert_equal(found: Result, expected: Result) -> None:
    assert [row["step"] for row in found.rows] == [row["step"] for row in expected.rows]
    assert [untimed(row) for row in found.rows] == [untimed(row) for row in expected.rows]
    assert (found.steps, found.latest) == (expected.steps, expected.latest)
    assert [name for name, weight in expected.weights.items() if not torch.equal(found.weights[name], weight)] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of whole runs, each made once."""
    known: dict[str, Result] = {}

    def get(**loader: Any) -> Result:
        name = str(sorted(loader.items()))
        if name not in known:
            known[name] = run(tmp_path_factory.mktemp("whole"), **loader)
        return known[name]

    return get


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
def test_every_epoch_shows_every_example_once_and_the_same_call_twice_is_identical(
    tmp_path: Path, uninterrupted: Any, loader: dict[str, Any]
):
    seen = Seen()
    result = run(tmp_path, seen, **loader)
    assert [epoch.total() for epoch in seen.epochs] == [len(EXAMPLES)] * 2
    assert seen.epochs[0] == seen.epochs[1]
    assert result.steps == STEPS
    assert [row["step"] for row in result.rows] == list(range(1, STEPS + 1))
    assert_equal(result, uninterrupted(**{name: value for name, value in loader.items() if name != "num_workers"}))


def test_the_seed_decides_the_order(tmp_path: Path, uninterrupted: Any):
    assert run(tmp_path, seed=4).rows != uninterrupted().rows


@pytest.mark.parametrize(
    ("every", "steps", "loader"),
    [
        (2, [2], SHUFFLED),
        (2, [6], GROUPED | WORKERS),
        (2, [2], ACCUMULATED),
        (100, [3], SHUFFLED),
        (1, range(1, STEPS), ACCUMULATED),
        (1, [3, 4, 5], WORKERS),
        (1, [3, 4, 5, 8, 9], {"max_epochs": 3}),
        pytest.param(1, range(1, 11), {"max_steps": 11}, marks=pytest.mark.slow),
        (2, [5], {"dropout": 0.3}),
        *((2, [3], {"family": family, "dropout": 0.3}) for family in ("qwen3_vl", "llava_next", "smolvlm")),
        *(
            pytest.param(
                *(2, [3], {"optimizer": kind(lr=1e-3, rounding=rounding), "dtype": dtype}),
                id=f"{kind.name}-{rounding}-{dtype}",
                marks=[pytest.mark.slow] * ((number - place) % 4 > 0),
            )
            for (number, kind), (place, (rounding, dtype)) in product(enumerate(OPTIMIZERS), enumerate(ROUNDINGS))
        ),
    ],
    ids=str,
)
def test_killed_after_a_step(
    tmp_path: Path, uninterrupted: Any, every: int, steps: Sequence[int], loader: dict[str, Any]
):
    """After a checkpoint, between two, before the first, and run after run: also at the first step of an epoch.

    Dropout draws on random numbers of each process, which a checkpoint holds.
    """
    for step in steps:
        with pytest.raises(Stopped):
            run(tmp_path, StopAt("on_before_backward", step), every=every, **loader)
    again = run(tmp_path, every=every, **loader)
    assert_equal(again, uninterrupted(**loader))
    assert "dropout" not in loader or again.latest != uninterrupted(dropout=0.0).latest


@pytest.mark.parametrize("objective", [SFT(), BPO(mode="concat")], ids=["sft", "bpo-concat"])
def test_killed_with_another_objective(tmp_path: Path, objective: Objective):
    examples = [example.with_responses(blind="I cannot see it.") for example in EXAMPLES]
    whole = run(tmp_path / "whole", objective=objective, examples=examples)
    with pytest.raises(Stopped):
        run(tmp_path / "x", StopAt("on_before_backward", 3), every=2, objective=objective, examples=examples)
    assert_equal(run(tmp_path / "x", every=2, objective=objective, examples=examples), whole)


@pytest.mark.parametrize(
    ("hook", "loader"),
    [
        ("on_train_batch_start", SHUFFLED),
        ("on_after_backward", ACCUMULATED),
        ("on_before_optimizer_step", ACCUMULATED),
        ("on_train_batch_end", ACCUMULATED),
    ],
    ids=str,
)
def test_an_exception_anywhere_in_a_step(tmp_path: Path, uninterrupted: Any, hook: str, loader: dict[str, Any]):
    """Weights and place in the data do not agree there, so nothing is saved but the regular checkpoints."""
    with pytest.raises(Stopped):
        run(tmp_path, StopAt(hook, 3), every=2, **loader)
    assert saved(tmp_path) == ["last.json", "step=2.ckpt"]
    assert_equal(run(tmp_path, **loader), uninterrupted(**loader))


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("number", "status", "hook", "batch", "step"),
    [
        pytest.param(signal.SIGTERM, 143, "on_train_batch_end", 4, 2, id="after a step"),
        pytest.param(signal.SIGINT, 130, "on_train_batch_end", 5, 3, id="between two micro-batches"),
        pytest.param(signal.SIGTERM, 143, "on_before_backward", 6, 3, id="in the last micro-batch of a step"),
    ],
)
def test_a_request_to_stop_waits_for_the_end_of_the_step(
    tmp_path: Path, uninterrupted: Any, number: int, status: int, hook: str, batch: int, step: int
):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, Ask(number, hook, 2, batch), every=100, **ACCUMULATED)
    assert stop.value.code == status
    assert saved(tmp_path) == ["last.json", f"step={step}.ckpt"]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == list(range(1, step + 1))
    assert_equal(run(tmp_path, **ACCUMULATED), uninterrupted(**ACCUMULATED))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


BATCH = "on_train_batch_start"


@pytest.mark.parametrize(
    ("number", "hooks", "status", "checkpoint"),
    [
        pytest.param(signal.SIGINT, [BATCH, "on_before_backward"], 130, "step=2.ckpt", id="a second Ctrl-C at once"),
        pytest.param(signal.SIGTERM, [BATCH, "on_before_backward"], 143, "step=4.ckpt", id="a scheduler asks twice"),
        # training is over, and what follows it can be repeated
        pytest.param(signal.SIGTERM, ["on_train_epoch_end"], 143, "step=8.ckpt", id="after the last step"),
    ],
)
def test_when_a_request_to_stop_is_answered(
    tmp_path: Path, uninterrupted: Any, number: int, hooks: list[str], status: int, checkpoint: str
):
    step = 3 if len(hooks) == 2 else STEPS
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *(Ask(number, hook, step) for hook in hooks), every=2)
    assert stop.value.code == status
    assert saved(tmp_path) == ["last.json", checkpoint]
    assert_equal(run(tmp_path, every=2), uninterrupted())


def test_no_room_for_a_checkpoint_leaves_the_last_one(tmp_path: Path, uninterrupted: Any):
    """A limit on the size of files stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(StopAt):
        def interrupt(self) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))

    try:
        with pytest.raises(UserError, match=r"step=4\.ckpt: cannot be written \(File too large\); make room there"):
            run(tmp_path, Fill("on_train_batch_start", 3), every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved(tmp_path) == ["last.json", "step=2.ckpt"]
    assert_equal(run(tmp_path, every=2), uninterrupted())


def test_what_a_kill_left_half_written_is_removed_and_never_taken_up(tmp_path: Path, uninterrupted: Any):
    with pytest.raises(Stopped):
        run(tmp_path, StopAt("on_before_backward", 3), every=2)
    (tmp_path / "checkpoints" / "step=4.ckpt").write_bytes(b"half of it")
    (tmp_path / "checkpoints" / "step=6.ckpt").mkdir()  # as of DeepSpeed
    (tmp_path / "checkpoints" / "step=6.ckpt" / "latest").touch()
    (tmp_path / "checkpoints" / ".last.json.x").touch()
    with pytest.raises(Stopped):
        run(tmp_path, StopAt("on_train_start", 2), every=2)
    assert saved(tmp_path) == ["last.json", "step=2.ckpt"]
    assert_equal(run(tmp_path, every=2), uninterrupted())


def test_sigkill_of_the_process(tmp_path: Path, uninterrupted: Any):
    small_model()
    killed = multiprocessing.get_context("fork").Process(
        target=run, args=(tmp_path, Kill("on_after_backward", 3)), kwargs={"every": 1}
    )
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [1, 2, 3]
    assert_equal(run(tmp_path, every=1), uninterrupted())


@pytest.mark.parametrize(
    ("every", "repeated"),
    [(2, 0), (3, 2), (100, STEPS)],
    ids=["checkpoint at the end", "two steps before the end", "none before the end"],
)
def test_stopped_between_training_and_evaluation(tmp_path: Path, uninterrupted: Any, every: int, repeated: int):
    """All steps are done and logged, but the run was stopped before it had finished."""
    seen = Seen()
    run(tmp_path, every=every)
    assert_equal(run(tmp_path, seen, every=every), uninterrupted())
    assert seen.batches == repeated


@pytest.mark.parametrize(("steps", "accumulate", "batch_size"), [(1, 1, 4), (6, 1, 4), (5, 2, 3), (5, 2, 14)], ids=str)
def test_max_steps_counts_optimiser_steps_and_decides_alone(
    tmp_path: Path, steps: int, accumulate: int, batch_size: int
):
    assert run(tmp_path, max_steps=steps, max_epochs=1, accumulate=accumulate, batch_size=batch_size).steps == steps


def test_items_are_every_example_in_every_group():
    items = Items(EXAMPLES[:3], groups=2)
    assert len(items) == 6
    assert [items[i] for i in range(6)] == [Item(example, group) for example in EXAMPLES[:3] for group in (0, 1)]


class Damaged:
    """An image that cannot be decoded."""

    key, name = "damaged", "damaged.png"

    def load(self) -> Any:
        raise UserError("damaged.png: cannot be decoded")


@pytest.mark.parametrize(("objective", "workers"), [(SFT(), 1), (DPO(), 1), (DPO(), 0)], ids=str)
def test_an_error_in_a_worker_is_the_same_one_line(tmp_path: Path, objective: Objective, workers: int):
    pictured = next(example for example in EXAMPLES if example.images)
    broken = [dataclasses.replace(pictured, images=(Damaged(),))]
    with pytest.raises(UserError, match=r"^damaged\.png: cannot be decoded$"):
        run(tmp_path, examples=broken, objective=objective, num_workers=workers)
