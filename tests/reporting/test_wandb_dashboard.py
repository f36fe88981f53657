"""The W&B dashboard as code, and the sweep for W&B's agent: as they would be sent, without key or network."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from launching import launch

from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.preflight import check

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("snapshots") / "dashboard.json"
SECTIONS = ["Training", "Rewards", "Safety", "Over-refusal", "Utility", "Other", "System"]
REWARDS = {"rewards/chosen", "rewards/rejected", "rewards/blind"}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process without a key, a home or a network; returns its folder."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    for name in ("HTTPS_PROXY", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()  # it reads the environment once
    yield tmp_path
    wandb.teardown()


def test_what_is_sent_is_what_it_was(bare: Path) -> None:
    """To change it on purpose: mmsafe.dashboard entity=lab out=tests/reporting/snapshots/dashboard.json."""
    ended = launch("dashboard", "project=mmsafe", "entity=lab", "out=sent.json", cwd=bare)
    assert (ended.status, ended.out) == (0, "results: sent.json\n"), ended.err
    sent = (bare / "sent.json").read_text()
    assert sent == SNAPSHOT.read_text()
    views = json.loads(sent)
    sections = views["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    shown = {section["name"]: json.dumps(section["panels"]) for section in sections if section["name"] in SECTIONS}
    assert list(shown) == SECTIONS
    assert all(f'"{metric}"' in shown["Rewards"] for metric in REWARDS)
    assert "eval/safety_rate" in shown["Safety"]
    assert "eval/over_refusal_rate" in shown["Over-refusal"]
    assert "perf/data_wait" in shown["System"]
    headings = [block for block in views["report"]["spec"]["blocks"] if block["type"] == "heading"]
    assert [block["children"][0]["text"] for block in headings] == SECTIONS


def test_without_a_key_it_says_what_to_do(bare: Path) -> None:
    ended = launch("dashboard", cwd=bare)
    assert ended.status == 2
    assert ended.err.splitlines()[-1].startswith("mmsafe.dashboard: no Weights & Biases key: run `wandb login`")


def test_every_command_of_the_agent_s_sweep_is_one_that_works() -> None:
    """What `wandb agent` would run for each point of the grid."""
    sweep: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    assert sweep["method"] == "grid"
    values = [[f"{name}={value}" for value in option["values"]] for name, option in sweep["parameters"].items()]
    points = list(itertools.product(*values))
    assert len(points) == 12
    env, interpreter, flag, module, *words = sweep["command"]
    assert (env, interpreter, flag, module) == ("${env}", "${interpreter}", "-m", "mmsafe.train")
    assert "logger=wandb" in words
    at = words.index("${args_no_hyphens}")
    for point in points:
        check("train", TrainConfig, [*words[:at], *point, *words[at + 1 :]])
