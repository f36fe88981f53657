"""Names of folders: the same for the same, and easy to type."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmsafe.sweeps.naming import job_name, sweep_name

CONFIG = {"seed": 0, "trainer": {"progress_bar": True, "max_steps": 2}, "hydra": {}, "launcher": {"jobs": 1}}


def name(overrides: dict[str, str], **changed: object) -> str:
    return job_name(overrides, OmegaConf.create({**CONFIG, **changed}))


def test_a_job_is_named_by_what_it_is():
    found = name({"objective": "bpo", "objective.beta": "0.1", "seed": "3", "trainer.deterministic": "true"})
    assert found.rpartition("-")[0] == "bpo-beta0.1-seed3-deterministictrue"
    assert name({"objective.beta": "0.12520653814999466"}).startswith("beta0.1252-")


def test_what_changes_no_result_does_not_change_the_name():
    assert name({}) == name({}, launcher={"jobs": 2}, trainer={"progress_bar": False, "max_steps": 2})
    assert name({}) != name({}, trainer={"progress_bar": True, "max_steps": 3})
    assert name({}) != name({}, seed=1)


@pytest.mark.parametrize("value", ["data/train set (1).json", "[a,b]", "'quoted=text'", "{a: 1}", "ü" * 300])
def test_a_folder_can_be_named_in_an_override_without_quotes(value: str):
    found = name({"data.path": value})
    parsed = OverridesParser.create().parse_override(f"checkpoint=multirun/x-12/{found}")
    assert parsed.value() == f"multirun/x-12/{found}"
    assert len(found.encode()) < 255


def test_a_sweep_is_named_by_its_command_however_it_is_started():
    words = ["objective=sft,dpo", "objective.beta=0.1,0.2", "data.size=8"]
    found = sweep_name(words)
    assert found.startswith("objective-beta-")
    assert sweep_name([*words, "launcher.jobs=3", "trainer.progress_bar=false"]) == found
    assert sweep_name([words[0], words[2], words[1]]) == found
    assert sweep_name([*words[:2], "data.size=9"]) != found
    assert sweep_name(["sweep=beta", "seed=1,2"]).startswith("beta-")
