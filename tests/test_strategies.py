"""Strategies on two processes without a GPU: the optimiser steps of one process, stopped and continued or not."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fitting import untimed
from launching import succeed
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from mmsafe.core.config import allow_plugins
from mmsafe.core.files import read_metrics
from mmsafe.experiment.exporting import export
from mmsafe.microworld.tiny import TinyModel

SUPPORT = Path(__file__).parent / "support"
RUN = (
    *("model=llava_hf", "model.path=../model", "objective=bpo", "optimizer.lr=1e-3", "optimizer.global_batch_size=8"),
    *("data.size=18", "data.test_size=8", "data.neutral_share=0.5", "generation.max_new_tokens=6"),
    *("evaluation.max_new_tokens=6", "benchmark.size=8", "benchmark.neutral_size=2", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=2", "trainer.progress_bar=false", "trainer.validate_every=0.5", "checkpoint.load_best=true"),
    *("checkpoint.monitor=val/logps/chosen", "checkpoint.mode=min", "checkpoint.keep_best=2"),
)
STEPS = 6
"""18 items in steps of 8, twice."""
ON_CPU = ("plugins=[deepspeed_on_cpu]", "strategy._target_=deepspeed_on_cpu.OnCpu")
TWO = ("trainer.devices=2", "data.batch_size=2", "hydra.run.dir=run")
TIMEOUT = 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("strategies")
    TinyModel(pretraining=None).load().save(folder / "model")
    (folder / "one").mkdir()
    succeed("train", *RUN, "data.batch_size=4", "hydra.run.dir=.", cwd=folder / "one", cache=folder / "cache")
    return folder


class Run:
    """`python -m mmsafe.train` on two processes, in a folder of its own."""

    def __init__(self, place: Path, name: str, *words: str) -> None:
        self.place = place / name
        self.place.mkdir()
        self.folder = self.place / "run"
        self.words = [sys.executable, "-m", "mmsafe.train", *RUN, *TWO, *words]
        self.environment = os.environ | {
            "MMSAFE_CACHE": str(place / "cache"),
            "PYTHONPATH": str(SUPPORT),
            "DS_ACCELERATOR": "cpu",
        }

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words,
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        process = self.start()
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a collective that waits for ever ignores SIGTERM
            raise
        assert process.returncode == 0, said[-5000:]
        return said

    def stop_after_a_step(self) -> None:
        process, log = self.start(), self.folder / "metrics.csv"
        deadline = time.monotonic() + TIMEOUT
        while not (log.exists() and len(log.read_text().splitlines()) > 1):
            assert time.monotonic() < deadline, os.killpg(process.pid, signal.SIGKILL)
            assert process.poll() is None, process.communicate()[0][-5000:]
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 143, said[-5000:]
        assert 0 < len(rows(self.folder)) < STEPS

    def check(self, place: Path, atol: float = 1e-5) -> None:
        """Losses, gradient norms and rewards of every step, the final weights, and an evaluation that went with it."""
        expected, found = rows(place / "one"), rows(self.folder)
        assert len(found) == len(expected) == STEPS
        for one, other in zip(expected, found, strict=True):
            assert other == pytest.approx({key: one[key] for key in other}, rel=1e-4, abs=2e-5)
        weights, own = (load_file(f / "model" / "model.safetensors") for f in (place / "one", self.folder))
        assert weights.keys() == own.keys()
        assert all(torch.allclose(own[key], weight, atol=atol) for key, weight in weights.items())
        metrics = json.loads((self.folder / "metrics.json").read_text())
        assert {"eval/safety_rate", "eval/pairwise_accuracy_reward"} <= metrics.keys()
        assert metrics["best/step"] == json.loads((place / "one" / "metrics.json").read_text())["best/step"] < STEPS
        assert any("val/loss" in row for row in found)


def rows(folder: Path) -> list[dict[str, float]]:
    known = read_metrics(folder / "metrics.csv")
    skipped = ("perf/", "eval/", "rewards/accuracies")
    return [untimed(row, skipped) for row in known if "train/loss" in row]


@pytest.mark.parametrize(
    "name", [pytest.param("zero1", marks=pytest.mark.slow), pytest.param("zero2", marks=pytest.mark.slow), "zero3"]
)
def test_it_takes_the_same_steps_as_one_process(place: Path, name: str):
    run = Run(place, name, f"strategy=deepspeed_{name}", *ON_CPU)
    said = run.finish()
    run.check(place)
    if name == "zero3":
        held, whole = map(float, re.findall(r"holds ([\d.]+) M of ([\d.]+) M weights", said)[0])
        assert held == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3", "fsdp"])
def test_stopped_and_continued_it_takes_the_same_steps_as_one_process(
    place: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
):
    run = Run(place, f"{strategy}-stopped", f"strategy={strategy}", *(ON_CPU if strategy != "fsdp" else ()))
    run.stop_after_a_step()
    monkeypatch.chdir(run.place)  # the run's `model.path` is relative
    allow_plugins(["deepspeed_on_cpu"])
    half = export(str(run.folder), str(run.place / "half"), "hf")
    assert "continuing from" in run.finish()
    run.check(place)
    first, then = (LlavaForConditionalGeneration.from_pretrained(f) for f in (place / "model", half))
    assert not torch.equal(first.lm_head.weight, then.lm_head.weight), "it was trained"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_8bit", "muon"])
def test_other_optimizers_on_two_processes_stopped_and_continued(place: Path, optimizer: str):
    own, word = place / optimizer, f"optimizer={optimizer}"
    (own / "one").mkdir(parents=True)
    (own / "model").symlink_to(place / "model")
    words = (*RUN, "data.batch_size=4", "hydra.run.dir=.", word)
    succeed("train", *words, cwd=own / "one", cache=own / "cache")
    run = Run(own, "two", "strategy=ddp", word)
    run.stop_after_a_step()
    assert "continuing from" in run.finish()
    run.check(own, atol=1e-3)  # 8 bits and orthogonal bf16 make more of the last bits of gradients


@pytest.mark.slow
def test_lora_in_half_precision_under_zero3(place: Path):
    run = Run(place, "lora", "strategy=deepspeed_zero3", *ON_CPU, "peft=lora", "trainer.precision=bf16-mixed")
    run.finish()
    base = load_file(place / "model" / "model.safetensors")
    own = load_file(run.folder / "model" / "model.safetensors")
    assert {weight.dtype for weight in own.values()} == {torch.bfloat16}
    moved = {name for name, weight in own.items() if not torch.equal(weight, base[name].bfloat16())}
    assert any("multi_modal_projector" in name for name in moved)
    assert any("q_proj" in name for name in moved)
    assert not any("vision_tower" in name or "lm_head" in name or "embed" in name for name in moved)
    adapter = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    assert all(weight.numel() for weight in adapter.values())
    first = rows(run.folder)[0]
    assert first["loss/preference"] == pytest.approx(0.693147, abs=0.01), "reference and policy by the same arithmetic"


def train_families(out: Path, strategy: str, *launcher: str) -> None:
    words = [sys.executable, *launcher, str(SUPPORT / "train_families.py"), str(out), strategy]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT), "DS_ACCELERATOR": "cpu"}
    process = subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        assert process.wait(TIMEOUT) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def families_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of each family, with and without adapters."""
    folder = tmp_path_factory.mktemp("families")
    train_families(folder, "auto")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero3"])
def test_every_family_takes_the_same_steps_as_in_one_process(families_alone: Path, strategy: str):
    two = ("--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
    train_families(families_alone, strategy, "-m", "torch.distributed.run", *two)
    for one in (families_alone / "auto").iterdir():
        found = families_alone / strategy / one.name
        assert len(rows(found)) == len(rows(one)) == 6
        for expected, row in zip(rows(one), rows(found), strict=True):
            assert row == pytest.approx({key: expected[key] for key in row}, rel=1e-4, abs=2e-5), one.name
        weights, own = (load_file(folder / "weights.safetensors") for folder in (one, found))
        assert weights.keys() == own.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(own[name], weight, atol=5e-5, rtol=0, msg=f"{one.name}: {name}")
