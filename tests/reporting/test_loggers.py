"""A training run with every logger at once: what each of them has afterwards, and that no key is among it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import QUICK, launch

from mmsafe.core.errors import UserError
from mmsafe.core.files import STEP, read_metrics
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.reporting.logged_run import LoggedRun
from mmsafe.reporting.loggers import TensorBoard
from mmsafe.reporting.run_samples import Sample, SampledRun
from mmsafe.runs.preflight import check

KEYS = {
    "WANDB_API_KEY": "planted0wandb0a1b2c3d4e5f60123456789abcd",
    "OPENAI_API_KEY": "sk-planted-openai-a1b2c3d4e5f6",
    "HF_TOKEN": "hf_planted_hub_a1b2c3d4e5f6",
}
VALIDATED = (
    *("trainer.max_epochs=3", "trainer.validate_every=1.0", "validate.generate=4", "optimizer.lr=1e-3"),
    *("checkpoint.monitor=val/logps/chosen", "checkpoint.mode=min", "early_stopping.patience=1"),
)
SINGLE = 1e-6
"""Relative error of TensorBoard's 32-bit floats."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with one job of two processes, logged to W&B and TensorBoard, with keys in its environment.

    It stops early: log-probs of what is trained on only grow, and it is told that less is better. `said` is what the
    job and the report of the sweep wrote to the terminal.
    """
    sweep = tmp_path_factory.mktemp("my sweep")
    (sweep / "multirun.yaml").touch()
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= KEYS | {"WANDB_MODE": "offline", "HOME": str(home), "MMSAFE_CACHE": str(home / "cache")}
    loggers = (
        "logger=[wandb,tensorboard]",
        "logger.wandb.samples=3",
        "logger.wandb.tags=[mine]",
        "logger.tensorboard.samples=2",
    )
    words = [*QUICK, *VALIDATED, "trainer.devices=2", *loggers, "name='${oc.env:HF_TOKEN}'", "hydra.run.dir=job"]
    done = subprocess.run(
        [sys.executable, "-m", "mmsafe.train", *words], cwd=sweep, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        ended = launch("report", "runs=.", cwd=sweep, cache=home / "cache")
    assert ended.status == 0
    said = done.stdout + done.stderr + ended.out + ended.err
    (sweep / "said").write_text(said)
    return sweep


@pytest.fixture(scope="module")
def offline_run(job: Path) -> Path:
    (found,) = (job / "job" / "wandb").glob("offline-run-*/*.wandb")
    return found


@pytest.fixture(scope="module")
def records(offline_run: Path) -> dict[str, list[Any]]:
    """What was written for W&B, by kind of record, read by its own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(offline_run)]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[Any]] = {}
    for line in read.stdout.splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


def by_step(rows: list[dict[str, float]]) -> dict[int, dict[str, float]]:
    return {int(row.pop(STEP)): row for row in rows}


def test_wandb_has_what_metrics_csv_has(job: Path, records: dict[str, Any]) -> None:
    found: dict[int, dict[str, float]] = {}
    for record in records["history"]:
        step = record["item"].get("trainer/global_step")
        names = [name for name in record["item"] if not name.startswith(("_", "trainer/", "samples", "validation"))]
        if names:
            found.setdefault(step, {}).update({name: record["item"][name] for name in names})
    assert found == by_step(read_metrics(job / "job" / "metrics.csv"))


def test_wandb_has_the_final_metrics_as_summary(job: Path, records: dict[str, Any]) -> None:
    summary: dict[str, Any] = {}
    for record in records["summary"]:
        summary |= record["update"]
    final = json.loads((job / "job" / "metrics.json").read_text())
    assert {name: summary[name] for name in final} == final


def test_wandb_run_is_found_by_sweep_command_and_choices(job: Path, records: dict[str, Any]) -> None:
    (run,), (exit_,) = records["run"], records["exit"]
    assert exit_.get("exit_code", 0) == 0
    assert (run["run_group"], run["job_type"]) == (job.name, "train")
    assert run["run_id"] == json.loads((job / "job" / "run.json").read_text())["run_id"]
    assert set(run["tags"]) == {"mine", "objective=bpo", "model=random", "data=microworld", "peft=none"}
    config = run["config"]["update"]
    assert (config["sweep"], config["objective"]["beta"], config["name"]) == (job.name, 0.1, "(left out)")


def test_as_many_samples_are_uploaded_as_asked_for(offline_run: Path, records: dict[str, Any]) -> None:
    (path,) = (offline_run.parent / "files" / "media" / "table").glob("samples*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["id", "image", "instruction", "response", "verdict", "category", "judge"]
    assert len(table["data"]) == 3
    assert {row[6] for row in table["data"]} == {"rules"}
    (artifact,) = (record for record in records["artifact"] if record["name"].endswith("samples"))
    assert sum(entry["path"].endswith(".png") for entry in artifact["manifest"]["contents"]) == 3
    assert all(row[2].startswith("user: ") and row[4] in ("safe", "unsafe", "refused") for row in table["data"])


def test_all_processes_stop_early_after_the_same_step(job: Path) -> None:
    rows = read_metrics(job / "job" / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4], "of 6"
    assert [row["step"] for row in rows if "val/loss" in row] == [2, 4]
    metrics = json.loads((job / "job" / "metrics.json").read_text())
    assert (metrics["train/steps"], metrics["best/step"]) == (4, 2)


def test_a_validation_uploads_as_many_answers_as_asked_for(job: Path, offline_run: Path) -> None:
    """The reference's and the policy's below each other, prompt by prompt."""
    paths = sorted((offline_run.parent / "files" / "media" / "table").glob("validation*.json"))
    tables = [json.loads(path.read_text()) for path in paths]
    assert [table["columns"][:4] for table in tables] == 2 * [["model", "id", "image", "instruction"]]
    assert {tuple(row[0] for row in table["data"]) for table in tables} == {
        3 * ("reference", f"step={n}") for n in (2, 4)
    }
    for table in tables:
        assert [row[1] for row in table["data"][::2]] == [row[1] for row in table["data"][1::2]]


def test_tensorboard_shows_words_as_they_are(tmp_path: Path, job: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(job / "job" / "tensorboard")).Reload()
    assert sorted(events.Tags()["tensors"]) == [f"validation/{n}/text_summary" for n in (1, 2)]
    assert [event.step for event in events.Tensors("validation/1/text_summary")] == [2, 4]
    assert events.Tags()["images"]
    logger: Any = TensorBoard(samples=1).open(LoggedRun(tmp_path, "run", {}))
    prompt = Example("1", (Turn("user", "# <script>x</script>\n[a](b)"),), (), {})
    generation: Any = {"response": "half of a pair: \ud83d"}
    sample = Sample(prompt, "harm", generation, {})  # type: ignore[typeddict-item]
    TensorBoard(samples=1).show(logger, 1, [SampledRun("policy", tmp_path, OwnPrompts(), {}, {}, [sample, sample])])
    logger.save()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = events.Tensors("validation/1/text_summary")[0].tensor_proto.string_val
    assert "<script>" not in text.decode()
    assert all(line.startswith("    ") for line in text.decode().splitlines()), "a block of code"


def test_tensorboard_has_what_metrics_csv_has(job: Path) -> None:
    expected = by_step(read_metrics(job / "job" / "metrics.csv"))
    found = scalars(job / "job" / "tensorboard")
    assert found.keys() == expected.keys()
    for step, metrics in expected.items():
        assert found[step] == pytest.approx(metrics, rel=SINGLE), step


def test_no_key_is_in_any_file_or_in_what_was_said(job: Path, records: dict[str, Any]) -> None:
    files = {path: path.read_bytes() for path in job.rglob("*") if path.is_file()}
    assert {"report.html", "results.csv", "run.json", "metrics.csv", "said", "train.log"} <= {p.name for p in files}
    for name, value in KEYS.items():
        assert [path.name for path, raw in files.items() if value.encode() in raw] == [], name
    assert not [name for name, value in KEYS.items() if value in json.dumps(records)]


def scalars(folder: Path) -> dict[int, dict[str, float]]:
    """By step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        if name != "epoch":
            for event in events.Scalars(name):
                found.setdefault(event.step, {})[name] = event.value
    return found


def log_steps(folder: Path, steps: range, loss: float) -> Any:
    logger = TensorBoard().open(LoggedRun(folder, "run", {}))
    for step in steps:
        logger.log_metrics({"train/loss": loss}, step)
    return logger


def test_a_continued_run_hides_the_steps_that_it_repeats_and_an_evaluation_keeps_the_last(tmp_path: Path) -> None:
    log_steps(tmp_path, range(1, 6), 1.0).finalize("success")
    log_steps(tmp_path, range(4, 7), 2.0).finalize("success")
    logger = TensorBoard().open(LoggedRun(tmp_path, "run", {}))
    logger.log_metrics({"eval/safety_rate": 0.5}, 6)
    logger.finalize("success")
    found = scalars(tmp_path / "tensorboard")
    assert {step: row["train/loss"] for step, row in found.items()} == {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2}
    assert found[6] == {"train/loss": 2.0, "eval/safety_rate": 0.5}


def test_a_logger_that_is_not_installed_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorBoard, "refusal", lambda _: "logger=tensorboard: is not installed")
    with pytest.raises(UserError, match="logger=tensorboard: is not installed"):
        check("train", TrainConfig, ["logger=tensorboard"])
