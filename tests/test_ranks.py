"""Several processes on one machine: the same run as one process on the same global batch."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import launch, succeed
from safetensors.torch import load_file

RUN = (
    *("model=random", "data.size=18", "data.test_size=8", "generation.max_new_tokens=6", "evaluation.max_new_tokens=6"),
    *("benchmark.size=16", "benchmark.neutral_size=4", "trainer.accelerator=cpu", "trainer.max_epochs=2"),
    *("trainer.progress_bar=false", "optimizer.lr=1e-3", "optimizer.global_batch_size=8", "objective=bpo"),
)


def run(folder: Path, *words: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MMSAFE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "mmsafe.train", *RUN, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        found = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [
        {n: v for n, v in row.items() if not n.startswith(("train/epoch", "perf/", "eval/", "rewards/accuracies"))}
        for row in found
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    succeed("train", *RUN, "data.batch_size=8", "hydra.run.dir=one", cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two", ("data.batch_size=2", "trainer.devices=2", "data.num_workers=1")),
        pytest.param("accumulated", ("data.batch_size=2",), marks=pytest.mark.slow),
    ],
)
def test_the_same_global_batch_gives_the_same_run(place: Path, name: str, words: tuple[str, ...]):
    """18 items in steps of 8: the last step of an epoch has 2, which do not fill a micro-batch of every rank."""
    done = run(place, *words, f"hydra.run.dir={name}")
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = rows(place / "one" / "metrics.csv"), rows(place / name / "metrics.csv")
    assert len(found) == len(expected) == 6
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx({key: one[key] for key in other}, rel=1e-4, abs=1e-5)
        assert set(other) == set(one)
    weights, own = (load_file(place / n / "model" / "model.safetensors") for n in ("one", name))
    assert all(torch.allclose(own[key], weight, atol=2e-4) for key, weight in weights.items())
    metrics = json.loads((place / name / "metrics.json").read_text())
    assert metrics["train/steps"] == 6
    assert "eval/safety_rate" in metrics
    about = json.loads((place / name / "run.json").read_text())
    assert about["examples"] == 18
    assert "FAILED" not in done.stderr


@pytest.mark.slow
def test_batches_of_tokens_make_the_same_steps_on_one_process_and_on_two(tmp_path: Path):
    found = []
    for name, how in {"one": "trainer.accumulate_grad_batches=2", "two": "trainer.devices=2"}.items():
        words = ("optimizer.global_batch_size=null", "data.max_tokens=400", "evaluate=false", how)
        done = run(tmp_path, *words, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(rows(tmp_path / name / "metrics.csv"))
    assert len(found[0]) == len(found[1]) > 4
    for one, two in zip(*found, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_batches_without_an_image_do_not_stop_the_others(place: Path, tmp_path: Path):
    """Neutral questions have no image; with one item on each rank, one of them often lacks it."""
    words = ("data.neutral_share=0.5", "data.batch_size=1", "trainer.devices=2", "evaluate=false")
    done = run(tmp_path, *words, "optimizer.global_batch_size=2", "hydra.run.dir=mixed")
    assert done.returncode == 0, done.stderr[-3000:]
    words = ("data.neutral_share=0.5", "data.batch_size=2", "optimizer.global_batch_size=2", "evaluate=false")
    alone = run(tmp_path, *words, "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    pairs = zip(rows(tmp_path / "alone" / "metrics.csv"), rows(tmp_path / "mixed" / "metrics.csv"), strict=True)
    for one, other in pairs:
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_sigterm_to_the_command_stops_all_and_the_same_command_goes_on(place: Path, tmp_path: Path):
    words = (*RUN, "data.batch_size=4", "trainer.devices=2", "trainer.max_epochs=20", "evaluate=false")
    words += ("checkpoint.every_n_steps=2", "hydra.run.dir=stopped")
    environment: Any = os.environ | {"MMSAFE_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "mmsafe.train", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "stopped" / "metrics.csv"
    deadline = time.monotonic() + 100
    while not (log.exists() and len(log.read_text().splitlines()) > 6):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    steps = len(rows(log))
    saved = json.loads((tmp_path / "stopped" / "checkpoints" / "last.json").read_text())
    assert (saved["step"], saved["processes"]) == (steps, 2)
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert "continuing from" in again.stdout + again.stderr
    assert len(rows(log)) == 60 > steps


def test_other_machines_are_not_started_from_here(tmp_path: Path):
    ended = launch("train", *RUN, "data.batch_size=1", "trainer.num_nodes=2", cwd=tmp_path)
    assert ended.status == 2
    assert "trainer.num_nodes: start the processes by torchrun" in ended.err
