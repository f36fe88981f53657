"""One language of all commands: their help, their old spelling for one release, and who may ask Hydra."""

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from judged_runs import REFUSED, SAFE, RunWriter, write_data
from launching import launch

import mmsafe
from mmsafe.cli import COMMANDS, about, main
from mmsafe.core.config import conf_dir
from mmsafe.core.errors import UserError
from mmsafe.runs.help_page import help_page

ROOT = Path(mmsafe.__file__).parent


@pytest.mark.parametrize("name", ["HydraConfig", r"hydra\._internal", "GlobalHydra", r"sys\.argv"])
def test_what_is_of_the_whole_process_is_touched_in_one_file(name: str):
    files = [*ROOT.rglob("*.py"), *(ROOT.parent / "hydra_plugins").rglob("*.py")]
    found = [str(file) for file in files if re.search(rf"\b{name}\b", file.read_text())]
    assert len(found) == 1, found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_few_lines(name: str):
    assert len((ROOT / f"{name}.py").read_text().splitlines()) <= 25


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_purpose_example_and_a_meaning_of_each_option(command: str):
    shown = help_page(command)
    assert shown.startswith(f"{about(command)}\n\npython -m mmsafe.{command}")
    own = shown.partition("options, as")[2].partition("\n\n")[0]
    options = re.findall(r"^  [\w.]+=(?:\[.*?\]|\S+)(.*)$", own, flags=re.M)
    assert options
    assert all(re.match(r" {2,}\S", meaning) for meaning in options)
    assert not re.search(r"_target_|\$\{now|hydra(?!\.run\.dir)", shown)


def test_the_options_of_every_choice_can_be_shown():
    command = {"entities": "build", "entity_image": "build", "rewording": "build", "tagger": "tag", "taxonomy": "tag"}
    command["defence"] = "evaluate"
    for path in conf_dir().glob("*/*.yaml"):
        choice = f"{path.parent.name}={path.stem}"
        assert f"\noptions of {choice}:" in help_page(command.get(path.parent.name, "train"), [choice])


def test_help_for_a_recipe_names_options_as_the_command_does():
    shown = help_page("train", ["experiment=paper_bpo", "sweep=optuna"])
    assert "\n  trainer.max_epochs=1" in shown
    assert "\n  search.n_trials=30" in shown


def test_a_choice_takes_meanings_over_from_the_one_that_it_extends():
    assert re.search(r"objective\.beta=0\.1 +inverse temperature", help_page("train", ["objective=bpo"]))
    assert re.search(r"optimizer\.paged=true +true: as", help_page("train", ["optimizer=paged_adamw_8bit"]))
    with pytest.raises(UserError, match="objective=bppo: no such objective; did you mean 'bpo'"):
        help_page("train", ["objective=bppo"])


@pytest.mark.parametrize("words", [["demo", "--help"], ["demo", "DIR", "--help"], ["report", "--help"]])
def test_help_does_nothing_else(words: list[str], tmp_path: Path):
    ended = launch(*words, cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert "options, as OPTION=VALUE:" in ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "old", "new", "place"),
    [
        (
            "report",
            ["my runs", "--against", "a=b"],
            ["runs=['my runs']", "against='a=b'"],
            "my runs/report/report.html",
        ),
        ("report", ["my runs", "--out=place"], ["runs=['my runs']", "out=place"], "place/report.html"),
        ("samples", ["my runs", "--format", "lm_eval"], ["runs=['my runs']", "format=lm_eval"], "my runs/lm_eval"),
    ],
)
def test_the_old_spelling_works_and_says_the_new_one(
    command: str, old: list[str], new: list[str], place: str, tmp_path: Path
):
    write = RunWriter(write_data(tmp_path / "data", ["How?", "Why?"]))
    write(tmp_path / "my runs" / "run", [("Sorry.", REFUSED), ("So.", SAFE)], "a=b")
    ended = launch(command, *old, cwd=tmp_path)
    told = f"this spelling ends with the next release; write: {shlex.join(['python', '-m', f'mmsafe.{command}', *new])}"
    assert ended.status == 0
    assert ended.err.startswith(f"mmsafe.{command}: {told}\n")
    assert f"results: {place}\n" in ended.out


def test_a_flag_that_there_is_not_is_one_line(tmp_path: Path):
    ended = launch("train", "--out", "x", cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "mmsafe.train: unrecognized arguments: --out; --help shows the options\n"


def test_flags_may_stand_between_overrides(tmp_path: Path):
    ended = launch("train", "seed=1", "--cfg", "job", "objective=dpo", cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert "seed: 1\n" in ended.out
    assert "mmsafe.objectives.dpo.DPO" in ended.out


def say(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["mmsafe", *words])
    main()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sub_command_is_the_module_of_that_name_with_the_words_after_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    module = importlib.import_module(f"mmsafe.{name}")
    seen: list[list[str]] = []
    monkeypatch.setattr(module, "main", seen.append)
    say(monkeypatch, name, "a=1", "--help")
    assert seen == [["a=1", "--help"]]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any):
    say(monkeypatch, *words)
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
        say(monkeypatch, word, "seed=1")
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err == f"mmsafe: no command '{word}'; {hint}\n"
    assert said.out == ""


def test_a_mistake_in_a_sub_command_is_reported_like_that_of_the_module(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    with pytest.raises(SystemExit) as ended:
        say(monkeypatch, "train", "objective=bppo")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "mmsafe.train: objective=bppo: no such objective; did you mean 'bpo'?\n"


def test_every_entry_point_is_a_command_and_the_script_is_installed():
    modules = ROOT.glob("*.py")
    entry_points = {path.stem for path in modules if '__name__ == "__main__"' in path.read_text()}
    assert entry_points == set(COMMANDS)
    assert tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["scripts"] == {
        "mmsafe": "mmsafe.cli:main"
    }
