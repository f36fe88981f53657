"""Training in rounds: each is a run that goes on from the policy of the one before, and samples from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from launching import QUICK, launch

from mmsafe.api import load, score
from mmsafe.core.files import read_metrics
from mmsafe.core.settings import Generation
from mmsafe.experiment.rounds import next_seed
from mmsafe.generation.responses import store_key
from mmsafe.microworld.reader import MicroWorld

SIZE = 8
WORDS = (*QUICK, f"data.size={SIZE}", f"data.batch_size={SIZE}", "benchmark.size=8", "benchmark.neutral_size=1")
LEARNING = (*WORDS, "optimizer.lr=1e-3", "optimizer.warmup_steps=0")
MOVED = 1e-4
"""Rewards beyond it are no rounding."""


def run(folder: Path, cache: Path, *words: str) -> Path:
    ended = launch("train", *LEARNING, *words, f"hydra.run.dir={folder}", cwd=folder.parent, cache=cache)
    assert ended.status == 0, ended.err
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def own(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what earlier rounds measured."""
    return {name: value for name, value in metrics.items() if not name.startswith("round/")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Three rounds of BPO, of one step each, whose reference stays."""
    return run(tmp_path_factory.mktemp("runs") / "three", cache, "rounds=3")


def test_a_round_is_the_whole_of_a_run_with_so_many(three: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        alone = run(tmp_path / str(number), tmp_path / "own-cache", f"rounds={number}")
        found, expected = metrics_of(three / f"round-{number}"), own(metrics_of(alone))
        assert {name: value for name, value in found.items() if not name.startswith("sampled/")} == {
            name: value for name, value in expected.items() if not name.startswith("sampled/")
        }
        about = json.loads((three / f"round-{number}" / "run.json").read_text())
        assert about["config"] == json.loads((alone / "run.json").read_text())["config"]
    assert {path.name for path in (tmp_path / "1").iterdir() if path.is_dir()} == {".hydra", "model"}


def test_the_last_round_is_the_run_and_says_what_those_before_measured(three: Path) -> None:
    metrics = metrics_of(three)
    assert sorted(path.name for path in three.glob("round-*")) == ["round-1", "round-2"]
    for number in (1, 2):
        before = metrics_of(three / f"round-{number}")
        told = {name.removeprefix(f"round/{number}/"): v for name, v in metrics.items() if f"round/{number}/" in name}
        assert {"train/loss", "eval/safety_rate", "sampled/staleness", "third/tokens"} <= told.keys()
        assert told == {name: before[name] for name in told}
        assert not (three / f"round-{number}" / "checkpoints").exists()
    assert metrics["train/steps"] == 1, "steps are of a round"


def test_each_round_samples_from_the_policy_of_the_one_before_with_noise_of_its_own(three: Path, cache: Path) -> None:
    kept, seed = {path.name for path in (cache / "responses").iterdir()}, 0
    for model, trained in ((three / "round-1", three / "round-2"), (three / "round-2", three)):
        vlm, seed = load(model), next_seed(seed)
        assert store_key(vlm, Generation(max_new_tokens=6, seed=seed)) in kept
        assert store_key(vlm, Generation(max_new_tokens=6, seed=0)) not in kept
        about = json.loads((trained / "run.json").read_text())
        assert (about["model"], about["examples"], about["seed"]) == (vlm.fingerprint(), SIZE, 0)


def test_a_reference_that_stays_is_that_of_the_first_round(three: Path) -> None:
    """Its log-probs against a pass of both models over each response by itself."""
    examples = MicroWorld(size=SIZE).train().examples
    base, policy = load("random"), load(three / "round-1")
    (first,) = read_metrics(three / "round-2" / "metrics.csv")[:1]
    for name in ("chosen", "rejected"):
        ratios = [ratio[name] for ratio in score(policy, examples, reference=base)]
        assert first[f"rewards/{name}"] == pytest.approx(0.1 * sum(ratios) / SIZE, abs=1e-4), name
        assert abs(first[f"rewards/{name}"]) > MOVED


@pytest.mark.parametrize(
    "words",
    [("reference=cached",), ("reference=frozen", "objective=dpo"), ("reference=adapter_off", "peft=lora")],
    ids=" ".join,
)
def test_a_reference_that_moves_is_the_policy_that_a_round_starts_from(
    tmp_path: Path, cache: Path, words: tuple[str, ...]
) -> None:
    folder = run(tmp_path / "run", cache, "rounds=2", "reference.moves=true", "evaluate=false", *words)
    for path in (folder / "round-1", folder):
        (first,) = read_metrics(path / "metrics.csv")[:1]
        assert first["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(first["rewards/chosen"]) < MOVED
    assert ("sampled/staleness" in metrics_of(folder)) == ("objective=dpo" not in words)


def test_a_frozen_copy_that_stays_is_of_the_first_model(three: Path, tmp_path: Path, cache: Path) -> None:
    frozen = run(tmp_path / "run", cache, "rounds=2", "reference=frozen", "evaluate=false")
    found, expected = (read_metrics(path / "metrics.csv")[0] for path in (frozen, three / "round-2"))
    for name in ("train/loss", "rewards/chosen", "rewards/blind"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4)


def test_a_finished_round_is_not_trained_again_and_names_tell_rounds_apart(tmp_path: Path, cache: Path) -> None:
    words = ("rounds=2", "name=arm", "evaluate=false")
    folder = run(tmp_path / "run", cache, *words)
    assert json.loads((folder / "round-1" / "run.json").read_text())["config"]["name"] == "arm round 1"
    before, expected = (folder / "round-1" / "metrics.json").stat().st_mtime_ns, metrics_of(folder)
    (folder / "metrics.json").unlink()
    assert metrics_of(run(folder, cache, *words)) == expected
    assert (folder / "round-1" / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("rounds=2", "objective=dpo"), "rounds=2: nothing is sampled and no reference moves"),
        (("rounds=2", "objective=simpo", "reference.moves=true"), "rounds=2: nothing is sampled"),
        (("reference.moves=true",), "reference.moves: there is one round"),
        (("rounds=2", "peft=lora", "reference=adapter_off"), "reference=adapter_off: later adapters"),
        (("rounds=0",), "rounds=0: should be greater"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_rounds_in_which_nothing_would_change_are_refused(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    ended = launch("train", *WORDS, *words, cwd=tmp_path, cache=tmp_path / "cache")
    assert ended.status == 2
    assert ended.err.startswith(f"mmsafe.train: {reason}")
    assert len(ended.err.splitlines()) == 1
