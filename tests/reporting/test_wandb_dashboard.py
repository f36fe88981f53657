"""The W&B dashboard as code, and the sweep for W&B's agent: as they would be sent, without key or network."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import launch

from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.preflight import check

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("snapshots") / "dashboard.json"
SECTIONS = ["Training", "Rewards", "Safety", "Over-refusal", "Other", "System"]
REWARDS = {"rewards/chosen", "rewards/rejected", "rewards/blind"}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `out=FILE` writes in a process without a key, a home or a network."""
    folder = tmp_path_factory.mktemp("dashboard")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    words = ["project=mmsafe", "entity=lab", f"out={folder / 'dashboard.json'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mmsafe.dashboard", *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"results: {folder / 'dashboard.json'}\n"
    return (folder / "dashboard.json").read_text()


def test_it_is_what_it_was(sent: str) -> None:
    """To change it on purpose: mmsafe.dashboard entity=lab out=tests/reporting/snapshots/dashboard.json."""
    assert sent == SNAPSHOT.read_text()


def test_the_sections_hold_the_metrics_that_runs_log(sent: str) -> None:
    found = json.loads(sent)
    sections = found["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    shown = {section["name"]: json.dumps(section["panels"]) for section in sections if section["name"] in SECTIONS}
    assert list(shown) == SECTIONS
    assert all(f'"{metric}"' in shown["Rewards"] for metric in REWARDS)
    assert "eval/safety_rate" in shown["Safety"]
    assert "eval/over_refusal_rate" in shown["Over-refusal"]
    assert "perf/data_wait" in shown["System"]
    headings = [block for block in found["report"]["spec"]["blocks"] if block["type"] == "heading"]
    assert [block["children"][0]["text"] for block in headings] == SECTIONS


def test_without_a_key_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    import wandb

    wandb.teardown()  # it reads the environment once
    try:
        ended = launch("dashboard", cwd=tmp_path, cache=tmp_path / "cache")
    finally:
        wandb.teardown()
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith("mmsafe.dashboard: no Weights & Biases key: run `wandb login`")


def agent_commands() -> list[list[str]]:
    """What `wandb agent` would run for each point of the grid."""
    sweep: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    assert sweep["method"] == "grid"
    names, values = zip(*((name, option["values"]) for name, option in sweep["parameters"].items()), strict=True)
    found = []
    for point in itertools.product(*values):
        words: list[str] = []
        for word in sweep["command"]:
            chosen = [f"{name}={value}" for name, value in zip(names, point, strict=True)]
            words += chosen if word == "${args_no_hyphens}" else [word]
        found.append(words)
    return found


def test_every_command_of_the_agent_s_sweep_is_one_that_works() -> None:
    commands = agent_commands()
    assert len(commands) == len({tuple(command) for command in commands}) == 12
    for env, interpreter, flag, module, *words in commands:
        assert (env, interpreter, flag, module) == ("${env}", "${interpreter}", "-m", "mmsafe.train")
        assert "logger=wandb" in words
        check("train", TrainConfig, words)
