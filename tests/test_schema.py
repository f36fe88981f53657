"""Editor support: schemas that take every YAML file and refuse what is misspelt in one, and completion in bash."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from launching import launch, succeed

from mmsafe.cli import COMMANDS
from mmsafe.core.config import conf_dir
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.schema import schema_of

CONF = conf_dir()
CHOICES = [
    file for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != "hydra"
]  # where Hydra's classes are set


@cache
def schema(command: str, *words: str) -> Any:
    """What is printed; of a choice what would be."""
    if words:
        return schema_of(command, TrainConfig, words)
    ended = succeed(command, "--schema", cwd=CONF, cache=CONF / "none")
    return json.loads(ended.out)


def problems(text: str, *words: str) -> list[str]:
    """What an editor would underline."""
    checker = Draft202012Validator(schema(*words))
    return [".".join(map(str, error.path)) or error.message for error in checker.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_file_of_a_command_fits_its_schema(command: str):
    assert problems((CONF / f"{command}.yaml").read_text(), command) == []


def test_every_choice_fits_its_schema():
    whole = {file: file.read_text().startswith("# @package _global_") for file in CHOICES}  # as the command's own
    words = {file: ["train"] if whole[file] else ["train", f"{file.parent.name}={file.stem}"] for file in CHOICES}
    found = {str(file): problems(file.read_text(), *words[file]) for file in CHOICES}
    assert {file: said for file, said in found.items() if said} == {}
    for file in ("command.yaml", "record_free.yaml"):
        assert problems((CONF / file).read_text(), "train") == []


@pytest.mark.parametrize(
    ("words", "text", "where"),
    [
        (["train"], "seeed: 1", "'seeed' was unexpected"),
        (["train"], "seed: one", "seed"),
        (["train"], "trainer: {max_stepz: 1}", "trainer"),
        (["train"], "objective: {bta: 0.1}", "objective"),
        (["train"], "checkpoint: {every_n_steps: 0}", "checkpoint"),
        (["train"], "verbosity: loud", "verbosity"),
        (["train", "experiment=paper_dpo"], "optimizer: {lr: fast}", "optimizer"),
        (["train", "objective=bpo"], "mode: joined", "mode"),
        (["train", "objective=bpo"], "beta: -1", "beta"),
        (["train", "objective=bpo"], "label_smoothing: 0.1", "'label_smoothing' was unexpected"),
        (["train", "logger=wandb"], "wandb: {samples: -1}", "wandb.samples"),
        (["build"], "quality: {max_wrods: 3}", "quality"),
    ],
)
def test_what_is_misspelt_or_out_of_range_is_underlined(words: list[str], text: str, where: str):
    (problem,) = problems(text, *words)
    assert where in problem


def test_part_of_the_options_will_do_and_interpolations_and_what_is_to_be_set():
    assert problems("defaults: [dpo, _self_]\nbeta: ${oc.env:BETA}", "train", "objective=bpo") == []
    assert problems("seed: ???\nmodel: {seed: '${seed}'}\nhydra: {job: {name: x}}", "train") == []


def test_an_option_says_what_its_comment_says():
    comments = re.findall(r"^(\w+): .*?# (.*)$", (CONF / "objective" / "bpo.yaml").read_text(), flags=re.M)
    options = schema("train", "objective=bpo")["properties"]
    assert comments
    assert {name: options[name].get("description") for name, _ in comments} == dict(comments)
    assert schema("train")["properties"]["seed"]["description"].startswith("of data order")


def test_a_plug_in_of_ones_own_has_a_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_schema.py").write_text(
        "from mmsafe.core.options import options\nfrom mmsafe.objectives.dpo import DPO\n"
        "@options\nclass Margin(DPO):\n    offset: float = 0.5\n"
    )
    (tmp_path / "conf" / "objective").mkdir(parents=True)
    (tmp_path / "conf" / "objective" / "margin.yaml").write_text("_target_: own_schema.Margin\noffset: 1.0   # nats\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--config-dir", str(tmp_path / "conf"), "objective=margin"]
    ended = launch("train", "--schema", *words, "plugins=[own_schema]", cwd=tmp_path, cache=tmp_path)
    assert json.loads(ended.out)["properties"]["offset"]["description"] == "nats"
    refused = launch("train", "--schema", *words, cwd=tmp_path, cache=tmp_path)
    assert refused.status == 2
    assert "add plugins=[own_schema]" in refused.err


def test_a_choice_that_there_is_not(tmp_path: Path):
    ended = launch("train", "--schema", "objective=bppo", cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert "objective=bppo: no such choice; did you mean 'bpo'?" in ended.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("{python} -m mmsafe.train objective=robu", ["objective=robust_dpo"]),
        ("mmsafe train objective=dpo objective.b", ["objective.beta="]),
        ("mmsafe eval", ["evaluate"]),
        ("{python} other.py obj", []),
    ],
)
def test_bash_completes(typed: str, offered: list[str], tmp_path: Path):
    script = launch("train", "--shell-completion", "install=bash", cwd=tmp_path, cache=tmp_path).out
    program = tmp_path / "mmsafe"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from mmsafe.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    line = typed.format(python=sys.executable)
    asked = f'PATH={tmp_path}:$PATH; COMP_LINE="{line}" _mmsafe; printf "%s\\n" "${{COMPREPLY[@]}}"; complete -p mmsafe'
    done = subprocess.run(
        ["bash", "--norc", "-c", script + asked], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *shown, installed = done.stdout.splitlines()
    assert list(filter(None, shown)) == offered
    assert "-F _mmsafe mmsafe" in installed
