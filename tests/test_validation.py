"""Validation while a policy trains: what it finds, what it leaves alone, which checkpoint is best, and when it ends."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu, untimed
from launching import QUICK, launch, succeed
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import Progress
from scripted import Scripted
from small_model import copied, small_model

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.files import read_metrics
from mmsafe.core.settings import Checkpoint, EarlyStopping, Evaluation, Peft
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.measuring import EvaluationTask
from mmsafe.experiment.held_out import ValidationAnswers, chosen
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.adapters import add_lora
from mmsafe.objectives.base import Objective, Scores
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.sft import SFT
from mmsafe.reference.reference import Frozen
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.scoring.collate import Item
from mmsafe.scoring.ways import Padded, SharedPrefix
from mmsafe.training import step_log
from mmsafe.training.best import Best, better
from mmsafe.training.checkpoint_files import trained_weights
from mmsafe.training.metrics import means, step_metrics
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.validation import Validation

WORLD = MicroWorld(size=10, test_size=7, image_size=24)
EXAMPLES = [example.with_responses(blind="I cannot see it.") for example in WORLD.train().examples]
HELD = [example.with_responses(blind="No, I can not.") for example in WORLD.holdout().examples]
STEPS = 6  # 3 of each of two epochs


class Ended(Exception):  # noqa: N818  # not an error: the test's own
    """Raised in a callback."""


class EndAfter(Callback):
    """Raises at the end of a step, before a checkpoint of it could be written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Ended


def run(
    folder: Path,
    *callbacks: Callback,
    objective: Objective | None = None,
    every: float | None = 2,
    monitor: str = "",
    patience: int | None = None,
    keep: int = 1,
    load_best: bool = False,
    mode: Any = None,
    **changes: Any,
) -> Any:
    """Two epochs of LoRA with dropout, validated every so many steps; returns the model, the rows and the best."""
    llava, objective, scoring = copied(small_model()), objective or DPO(), SharedPrefix()
    add_lora(llava, Peft(method="lora", rank=4, alpha=8, dropout=0.5))
    mode = mode or better(monitor, ())
    options = Checkpoint(every_n_steps=3, monitor=monitor or None, mode=mode, keep_best=keep, load_best=load_best)
    words: dict[str, Any] = {"max_epochs": 2, "progress_bar": False, "log_every_n_steps": 4, **changes}
    end = fitted(
        llava,
        EXAMPLES,
        objective=objective,
        scoring=scoring,
        reference=Frozen().policy(copied(small_model()), scoring, "32-true") if objective.needs_reference else None,
        optimizer=AdamW(lr=1e-2, warmup_steps=0),
        trainer=on_cpu(validate_every=every, **words),
        folder=folder,
        checkpoint=options,
        loggers=[CsvLog(folder)],
        callbacks=callbacks,
        held=HELD if every else (),
        early=EarlyStopping(patience=patience),
        batch_size=4,
    )
    return llava, read_metrics(folder / "metrics.csv"), end.best, end


def slowly(model: Any, objective: Objective) -> dict[str, float]:
    """What one forward pass for each held-out item finds, over all of them."""
    llava, before, scoring = replace(small_model(), model=model), small_model(), Padded()
    collate, totals = scoring.collator(llava.encoder(), objective.groups), {}
    with torch.no_grad():
        for example in HELD:
            for group in range(len(objective.groups)):
                batch: Any = collate([Item(example, group)])
                policy = scoring.log_probs(model.eval(), batch)
                reference = scoring.log_probs(before.model.eval(), batch)
                scores = {name: Scores(*row, reference[name].log_probs) for name, row in policy.items()}
                for name, value in step_metrics(objective, batch.group, scores, objective(scores)).items():
                    totals[name] = totals.get(name, 0) + value
    return {f"val/{name.removeprefix('train/')}": value for name, value in means(totals).items()}


@pytest.mark.parametrize("objective", [BPO(), BPO(mode="concat"), SFT()], ids=["bpo", "bpo-concat", "sft"])
def test_it_finds_what_one_item_at_a_time_finds_without_dropout(tmp_path: Path, objective: Objective):
    epoch = -(-len(EXAMPLES) * len(objective.groups) // 4)
    llava, rows, _, _ = run(tmp_path, objective=objective, every=1.0)
    assert [row["step"] for row in rows if "val/loss" in row] == [epoch, 2 * epoch]
    found = {name: value for name, value in rows[-1].items() if name.startswith("val/")}
    assert found == pytest.approx(slowly(llava.model, objective), rel=1e-4, abs=1e-5)


def test_the_prompts_of_validation_may_be_dialogues(tmp_path: Path):
    """An untrained policy says what the reference says, at every turn."""
    shown: list[int] = []
    task = EvaluationTask(Scripted(), WORLD, "holdout", Keywords(max_unknown=1), Padded(), Evaluation(max_new_tokens=4))
    asked = ValidationAnswers(small_model(), task, 3, 0, tmp_path, lambda step, runs: shown.extend([step, len(runs)]))
    assert asked(5).keys() == {"refusal_rate"}
    before, now = ((tmp_path / "validation" / name / "generations.jsonl") for name in ("reference", "step=5"))
    assert before.read_text() == now.read_text()
    assert [len(json.loads(line)["earlier"]) for line in now.read_text().splitlines()] == [2, 2, 2]
    assert shown == [5, 2]


class Twice(Scripted):
    """Each question in two rows, of which each is to have a sample of its own."""

    def prompts(self, data: Any, part: Any) -> list[Example]:
        return [Example(name, (Turn("user", "Say something."),), (), {}, {}) for name in ("one", "two")]


def test_prompts_that_are_alike_have_a_sample_each(tmp_path: Path):
    settings = Evaluation(max_new_tokens=8, temperature=1)
    task = EvaluationTask(Twice(), WORLD, "holdout", Keywords(max_unknown=1), Padded(), settings)
    ValidationAnswers(small_model(), task, 2, 0, tmp_path, lambda step, runs: None)(1)
    before, now = ((tmp_path / "validation" / name / "generations.jsonl") for name in ("reference", "step=1"))
    assert before.read_text() == now.read_text()
    assert len({json.loads(line)["response"] for line in now.read_text().splitlines()}) == 2


def test_it_changes_nothing(tmp_path: Path):
    llava, rows, _, end = run(tmp_path / "with", every=1)
    plain, without, _, same = run(tmp_path / "without", every=None)
    assert all(weight.equal(plain.model.state_dict()[name]) for name, weight in llava.model.state_dict().items())
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "a validation has the step beside it"
    assert [row["step"] for row in without] == [4]
    assert untimed(untimed(rows[3]), "val/") == untimed(without[0])
    assert end.latest == same.latest


@pytest.mark.parametrize(
    ("every", "expected"), [(2, [2, 4, 6]), (4, [4]), (0.5, [2, 3, 5, 6]), (1.0, [3, 6]), (0.1, [1, 2, 3, 4, 5, 6])]
)
def test_when_it_is_due(every: float, expected: list[int]):
    validation = Validation(None)  # type: ignore[arg-type]
    validation.set_interval(every, 3, STEPS)
    assert [step for step in range(1, STEPS + 1) if validation.is_due(step)] == expected
    with pytest.raises(UserError, match=r"trainer.validate_every=7: training ends before, after 6 steps"):
        validation.set_interval(7, 3, STEPS)


VALUES = [3.0, 2.0, 2.5, 1.95, 1.9]


@pytest.mark.parametrize(
    ("mode", "delta", "waited", "ranked"),
    [
        ("min", 0.0, [0, 0, 1, 0, 0], [5, 4]),
        ("min", 0.1, [0, 0, 1, 2, 3], [5, 4]),
        ("max", 0.0, [0, 1, 2, 3, 4], [1, 3]),
    ],
)
def test_what_is_best_and_for_how_long_nothing_was_better(
    mode: Any, delta: float, waited: list[int], ranked: list[int]
):
    best = Best(Checkpoint(monitor="val/x", mode=mode, keep_best=2), EarlyStopping(patience=3, min_delta=delta))
    for step, value in enumerate(VALUES, 1):
        best.add(step, {"val/x": value})
        assert best.waited == waited[step - 1]
        assert best.exhausted == (best.waited >= 3)
        again = Best(best.options, best.early)
        again.load(best.state())
        best = again
    assert best.steps == ranked
    with pytest.raises(UserError, match=r"^step 6: val/x is nan"):
        best.add(6, {"val/x": math.nan})
    with pytest.raises(
        UserError, match=r"^checkpoint.monitor=val/x: is not measured; choose one of train/loss, val/y$"
    ):
        best.add(6, {"val/y": 1.0, "train/loss": 1.0})


def test_what_is_better_is_declared():
    measures = [Metric("safety_rate", "", "higher"), Metric("gap", "", "lower"), Metric("length", "")]
    names = ["val/loss", "val/loss/blind", "train/loss", "val/rewards/margins/blind", "val/rewards/accuracies"]
    assert [better(name, ()) for name in names] == ["min", "min", "min", "max", "max"]
    assert [better(f"val/{metric.name}", measures) for metric in measures] == ["max", "min", None]
    assert [better(name, measures) for name in ("val/logps/chosen", "val/lossy")] == [None, None]


MONITORED: dict[str, Any] = {"monitor": "val/rewards/margins", "every": 1, "keep": 2, "load_best": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("whole"), **MONITORED)


@pytest.mark.parametrize("steps", [[1], [2, 4], [3, 5, 6]], ids=str)
def test_ended_and_continued_it_has_the_same_best(tmp_path: Path, whole: Any, steps: list[int]):
    for step in steps:
        with pytest.raises(Ended):
            run(tmp_path, EndAfter(step), **MONITORED)
    llava, rows, best, end = run(tmp_path, **MONITORED)
    expected, other, known, other_end = whole
    assert [untimed(row) for row in rows] == [untimed(row) for row in other]
    assert best.state() == known.state()
    assert (end.latest, end.steps) == (other_end.latest, other_end.steps)
    weights = expected.model.state_dict()
    assert all(weight.equal(weights[name]) for name, weight in llava.model.state_dict().items())


def test_the_best_are_kept_beside_the_last_and_loaded(tmp_path: Path):
    llava, rows, best, end = run(tmp_path, **MONITORED | {"monitor": "val/logps/chosen", "mode": "min"})
    values = {int(row["step"]): row["val/logps/chosen"] for row in rows}
    assert best.steps == sorted(values, key=values.__getitem__)[:2]
    assert STEPS not in best.steps, "the last is another one"
    folder = tmp_path / "checkpoints"
    assert json.loads((folder / "last.json").read_text())["best"] == best.steps
    assert {path.name for path in folder.glob("step=*")} == {f"step={step}.ckpt" for step in {*best.steps, STEPS}}
    kept = trained_weights(folder / f"step={best.steps[0]}.ckpt")
    assert all(kept[f"policy.{name}"].equal(p) for name, p in llava.model.named_parameters() if p.requires_grad)
    assert slowly(llava.model, DPO())["val/logps/chosen"] == pytest.approx(values[best.steps[0]], rel=1e-4)
    assert end.steps == STEPS


@pytest.mark.parametrize("ends", [None, 2, 3], ids=str)
def test_it_ends_early_and_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: int | None):
    """Losses that only grow: the first validation is the best, and the third is the second that is not better."""
    found = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    words: dict[str, Any] = {"monitor": "val/loss", "every": 1, "patience": 2}
    monkeypatch.setattr(Validation, "__call__", lambda *_: {"val/loss": next(found)})
    if ends:
        with pytest.raises(Ended):
            run(tmp_path, EndAfter(ends), **words)
        found = iter([2.0, 3.0, 4.0, 5.0, 6.0])
    *_, best, end = run(tmp_path, **words)
    assert (end.steps, best.steps) == (3, [1])
    *_, best, end = run(tmp_path, **words)
    assert (end.steps, best.steps) == (3, [1]), "the checkpoint of step 3 says that it has ended"


def test_the_bar_counts_steps_of_the_run_and_epochs_from_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where a run is continued, whose remaining time comes from its own steps alone."""
    bars: list[Progress] = []

    def bar(total: int) -> Progress:
        bars.append(Progress(console=Console(quiet=True), disable=total == 0, auto_refresh=False))
        return bars[-1]

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            (task,) = bars[-1].tasks
            seen.append((task.completed, task.description.split(",")[0]))

    monkeypatch.setattr(step_log, "progress_bar", bar)
    seen: list[Any] = []
    words: dict[str, Any] = {"max_steps": 5, "progress_bar": True, "every": None}
    with pytest.raises(Ended):
        run(tmp_path, Watch(), EndAfter(4), **words)
    assert seen == [(1, "epoch 1/2"), (2, "epoch 1/2"), (3, "epoch 1/2"), (4, "epoch 2/2")]
    seen.clear()
    run(tmp_path, Watch(), **words)
    assert seen == [(4, "epoch 2/2"), (5, "epoch 2/2")]
    assert [bar.tasks[0].total for bar in bars] == [5, 5]
    (task,) = bars[1].tasks
    assert (task.finished, task.time_remaining) == (True, 0)
    assert sum(sample.completed for sample in task._progress) == 2, "three steps were an earlier process's"


def test_a_part_of_a_benchmark_is_the_same_in_any_order_and_keeps_views_together():
    views = [
        Example(f"{number}/{view}", (Turn("user", "?"),), (), {}, {"pair": str(number)})
        for number in range(20)
        for view in ("a", "b")
    ]
    found = chosen(views, 9, 0, "pair")
    assert len(found) == 8
    assert [example.id[:-2] for example in found[::2]] == [example.id[:-2] for example in found[1::2]]
    assert chosen(views[::-1], 9, 0, "pair")[::2] == found[1::2]
    assert chosen(views, 9, 1, "pair") != found
    assert chosen(views, 4, 0, "pair") == found[:4], "fewer are some of them"
    assert len(chosen(views, 9, 0)) == 9
    assert len(chosen(views, 1, 0, "pair")) == 2, "never nothing"


SHOWN = ["trainer.validate_every=1.0", "validate.generate=100", "validate.examples=5", "checkpoint.monitor=val/loss"]


def test_what_a_command_validates_is_what_it_evaluates(tmp_path: Path):
    """All prompts of the benchmark after the last step: the same answers, verdicts and rates as at the end."""
    words = [*QUICK, *SHOWN, "trainer.max_epochs=2", "checkpoint.load_best=true", "logger=tensorboard"]
    succeed("train", *words, "hydra.run.dir=run", cwd=tmp_path)
    folder = tmp_path / "run"
    metrics, rows = json.loads((folder / "metrics.json").read_text()), read_metrics(folder / "metrics.csv")
    at = int(metrics["best/step"])
    row = next(row for row in rows if row["step"] == at)
    assert metrics["best/val/loss"] == row["val/loss"] == min(row["val/loss"] for row in rows if "val/loss" in row)
    for name in ("safety_rate", "over_refusal_rate", "image_gap", "fluent_rate"):
        assert row[f"val/{name}"] == pytest.approx(metrics[f"eval/{name}"]), name
    validated = folder / "validation" / f"step={at}"
    answers = [sorted((path / "generations.jsonl").read_text().splitlines()) for path in (folder, validated)]
    assert answers[0] == answers[1]
    assert not (folder / "checkpoints").exists()
    page = (validated / "samples.html").read_text()
    assert "hidden until you open them" in page
    assert '"label": "reference"' in page
    assert f'"label": "step={at}"' in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.validate_every=99"], "trainer.validate_every=99: training ends before, after 4 steps; lower it"),
        (
            ["trainer.validate_every=1", "checkpoint.monitor=val/los", "checkpoint.mode=min"],
            "checkpoint.monitor=val/los: is not measured; choose one of",
        ),
    ],
    ids=lambda words: words[-1] if isinstance(words, list) else "",
)
def test_what_cannot_be_is_one_line(tmp_path: Path, words: list[str], message: str):
    ended = launch("train", *QUICK, *words, "trainer.accelerator=cpu", cwd=tmp_path)
    assert ended.status == 2
    assert message in ended.err.splitlines()[-1]
