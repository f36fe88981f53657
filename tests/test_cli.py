"""The console script `mmsafe`."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mmsafe.cli import COMMANDS, about, main

ROOT = Path(__file__).resolve().parents[1]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["mmsafe", *words])
    main()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sub_command_is_the_module_of_that_name_with_the_words_after_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    module = importlib.import_module(f"mmsafe.{name}")
    seen: list[list[str]] = []
    monkeypatch.setattr(module, "main", seen.append)
    run(monkeypatch, name, "a=1", "--help")
    assert seen == [["a=1", "--help"]]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any):
    run(monkeypatch, *words)
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and about(name) in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("tran", "did you mean 'train'?"), ("xyz", f"known: {', '.join(sorted(COMMANDS))}")],
)
def test_an_unknown_command_is_one_line_and_status_2(
    word: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, word, "seed=1")
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err == f"mmsafe: no command '{word}'; {hint}\n"
    assert said.out == ""


def test_a_mistake_in_a_sub_command_is_reported_like_that_of_the_module(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "train", "objective=bppo")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "mmsafe.train: objective=bppo: no such objective; did you mean 'bpo'?\n"


def test_every_entry_point_is_a_command_and_the_script_is_installed():
    modules = (ROOT / "mmsafe").glob("*.py")
    entry_points = {path.stem for path in modules if '__name__ == "__main__"' in path.read_text()}
    assert entry_points == set(COMMANDS)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"mmsafe": "mmsafe.cli:main"}
