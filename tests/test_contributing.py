"""The recipes of CONTRIBUTING.md, followed to the letter in a folder of a user's own."""

import csv
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from launching import refuse, succeed

DOCUMENT = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
ANSWERS = ("evaluation.max_new_tokens=6",)
STEPS = ("trainer.max_steps=2", "trainer.progress_bar=false", *ANSWERS)
MADE = (*STEPS, "benchmark=own_prompts", "data.size=8", "data.test_size=4", "generation.max_new_tokens=6")


class Recipe(NamedTuple):
    """What makes a recipe quick, and by what its result is seen in tables, on the report's page and in results.csv."""

    quick: tuple[str, ...]
    table: str
    page: str
    column: str


RECIPES = {
    "objective": Recipe(MADE, "margin · seed 0", "objective=margin", "overrides"),
    "data set": Recipe(STEPS, "safety rate, category=", "category=", "eval/safety_rate/category="),
    "benchmark": Recipe(ANSWERS, "brief answers, about=lock", "brief answers", "eval/brief_rate"),
    "judge": Recipe((*ANSWERS, "data.test_size=8"), "(counts capitals)", "(counts capitals)", "eval/judge"),
    "model": Recipe(MADE, "narrow", "narrow", "group"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose package `mine` can be imported, and is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def followed(title: str, place: Path) -> list[list[str]]:
    """Write the files of a recipe into `place`; returns the words of its commands."""
    section = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)
    (text,) = [part for part in section if re.match(rf"Add an? {title}\n", part)]
    files = dict(re.findall(r"^```(?:python|yaml|json)\n# (\S+)\n(.*?)^```", text, flags=re.M | re.S))
    assert 2 <= len(files) <= 3
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content, encoding="utf-8")
    (console,) = re.findall(r"^```console\n(.*?)^```", text, flags=re.M | re.S)
    return [shlex.split(line.removeprefix("$ ")) for line in console.splitlines()]


def test_there_is_a_test_of_every_recipe() -> None:
    assert re.findall(r"^## Add an? (.*)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.M) == list(RECIPES)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs_as_it_stands_and_its_result_is_seen_everywhere(title: str, place: Path) -> None:
    recipe = RECIPES[title]
    for number, (_, _, module, *words) in enumerate(followed(title, place)):
        words += [*recipe.quick, f"hydra.run.dir=runs/{number}"]
        ended = succeed(module.removeprefix("mmsafe."), *words, cwd=place)
        report = succeed("report", f"runs/{number}", cwd=place)
        assert recipe.table in ended.out + report.out
        folder = place / "runs" / str(number) / "report"
        assert recipe.page in (folder / "report.html").read_text(encoding="utf-8")
        with (folder / "results.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert any(value for column, value in row.items() if column.startswith(recipe.column))


def test_a_class_of_a_package_that_was_not_allowed_is_refused_by_name(place: Path) -> None:
    command, *_ = followed("benchmark", place)
    assert "add plugins=[mine]" in refuse(
        "evaluate", *[word for word in command[3:] if "plugins" not in word], cwd=place, cache=place
    )
