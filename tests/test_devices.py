"""`mmsafe.blind` and `mmsafe.evaluate` on several devices: the same files as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launching import refuse

SMALL = ("model=random", "accelerator=cpu", "data.size=18", "data.test_size=8")
ASKED = ("evaluation.max_new_tokens=6", "evaluation.batch_size=2", "benchmark.size=16", "benchmark.neutral_size=4")
SAMPLED = ("generation.max_new_tokens=6", "generation.batch_size=2", "generation.num_return_sequences=2")


def run(command: str, folder: Path, *words: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """The command, with a cache of its own, in the run folder `folder`."""
    environment = os.environ | {"MMSAFE_CACHE": f"{folder}-cache"}
    whole = [sys.executable, "-m", f"mmsafe.{command}", *SMALL, *words, f"devices={devices}", f"hydra.run.dir={folder}"]
    return subprocess.run(
        whole, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights, to compare with."""
    from mmsafe.microworld.tiny import TinyModel

    llava, folder = TinyModel(pretraining=None).load(), tmp_path_factory.mktemp("base")
    with torch.no_grad():
        for weight in llava.model.model.language_model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    llava.save(folder)
    return folder


@pytest.mark.slow
def test_an_evaluation_is_the_same_to_the_last_digit(tmp_path: Path, base: Path) -> None:
    for devices in (1, 2):
        done = run("evaluate", tmp_path / f"on-{devices}", *ASKED, f"against={base}", devices=devices)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("pairwise accuracy, log-prob") == 1, "one process prints"
    one, two = tmp_path / "on-1", tmp_path / "on-2"
    for name in ("metrics.json", "generations.jsonl", "judgements.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    assert {"eval/safety_rate", "eval/pairwise_accuracy_reward"} <= set(json.loads((two / "metrics.json").read_text()))
    made = {"generations.jsonl", "judgements.jsonl", "metrics.json", "metrics_by_tag.csv", "run.json"}
    assert {path.name for path in two.iterdir()} == {".hydra", "evaluate.log", *made}


@pytest.mark.slow
def test_blind_responses_are_the_same(tmp_path: Path) -> None:
    for devices in (1, 2):
        done = run("blind", tmp_path / f"on-{devices}", *SAMPLED, devices=devices)
        assert done.returncode == 0, done.stderr[-3000:]
    made = (tmp_path / "on-2" / "blind.jsonl").read_bytes()
    assert made == (tmp_path / "on-1" / "blind.jsonl").read_bytes()
    assert len(made.splitlines()) == 36


@pytest.mark.parametrize("command", ["blind", "evaluate"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("num_nodes=2",), "num_nodes: start the processes by torchrun"),
        pytest.param(
            ("accelerator=gpu",),
            "accelerator=gpu: this machine has none; use auto or cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_devices_that_are_not_here_are_one_line(command: str, words: tuple[str, ...], message: str, tmp_path: Path):
    assert message in refuse(command, *SMALL, *words, "hydra.run.dir=run", cwd=tmp_path)
