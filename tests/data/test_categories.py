"""Categories from a file: every data set takes them, and what does not fit the file is told."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from reader_rows import READERS, json_file, numbered, picture

from mmsafe.core.config import conf_dir
from mmsafe.core.errors import UserError
from mmsafe.data.categories import with_categories, write_categories
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example, Turn
from mmsafe.data.mix import Mix
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.microworld.reader import MicroWorld


def examples(count: int) -> list[Example]:
    return [Example(f"e{number}", (Turn("user", f"question {number}"),), (), {}) for number in range(count)]


def texts(folder: Path, name: str, count: int, **changes: object) -> TRLPreference:
    rows = [{"prompt": f"{name} {i}", "chosen": "yes", "rejected": "no"} for i in range(count)]
    return TRLPreference(path=json_file(folder / f"{name}.json", rows), **changes)  # type: ignore[arg-type]


def every_data_set(folder: Path) -> dict[str, DataSource]:
    picture(folder / "images" / "a.png")
    found: dict[str, DataSource] = {
        name: reader(path=json_file(folder / f"{name}.json", numbered(name, 1)), holdout_share=0)
        for name, reader in READERS.items()
    }
    return found | {"microworld": MicroWorld(size=3, test_size=3), "mix": Mix(parts={"a": texts(folder, "a", 9)})}


def test_every_data_set_of_the_configuration_is_tested_here(tmp_path: Path) -> None:
    assert {path.stem for path in (conf_dir() / "data").glob("*.yaml")} <= {*every_data_set(tmp_path), "prepared"}


@pytest.mark.parametrize("name", [*READERS, "microworld", "mix"])
def test_every_data_set_gives_its_examples_the_categories_of_the_file(name: str, tmp_path: Path) -> None:
    data = every_data_set(tmp_path)[name]
    found = [*data.train().examples, *data.holdout().examples]
    expected = [f"kind {number % 2}" for number in range(len(found))]
    write_categories(tmp_path / "categories.jsonl", found, expected)
    told = replace(data, categories=tmp_path / "categories.jsonl")
    again = [*told.train().examples, *told.holdout().examples]
    by_prompt = dict(zip([e.prompt_key() for e in found], expected, strict=True))
    assert {e.prompt_key(): e.tags["category"] for e in again} == by_prompt
    for before, after in zip(found, again, strict=True):  # nothing else has changed
        assert replace(after, tags=before.tags) == before
        assert after.tags == {**before.tags, "category": after.tags["category"]}


def test_a_row_s_own_category_gives_way(tmp_path: Path) -> None:
    (own,) = every_data_set(tmp_path)["beavertails_v"].train().examples
    assert own.tags["category"] == "weapons"
    write_categories(tmp_path / "c.jsonl", [own], ["Malicious Use"])
    assert with_categories([own], tmp_path / "c.jsonl")[0].tags["category"] == "Malicious Use"


def test_examples_that_the_file_lacks_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, asked = tmp_path / "c.jsonl", examples(5)
    write_categories(path, asked[:3], ["a", "b", "a"])
    with caplog.at_level(logging.WARNING):
        found = with_categories(asked, path)
    assert [example.tags.get("category") for example in found] == ["a", "b", "a", None, None]
    assert f"{path} has none for 2 of 5 examples, such as e3, e4; they count in no category" in caplog.text
    caplog.clear()
    assert with_categories(asked[:3], path) == found[:3]
    assert caplog.text == ""


def test_a_category_is_that_of_the_prompt_and_not_of_the_id(tmp_path: Path) -> None:
    """Rows of two files may have the same ids, and a row that was edited is another one."""
    first, second = examples(2)
    write_categories(tmp_path / "c.jsonl", [first, second], ["a", "b"])
    swapped = with_categories([replace(first, id="e1"), replace(second, id="e0")], tmp_path / "c.jsonl")
    assert [example.tags["category"] for example in swapped] == ["a", "b"]
    edited = replace(first, turns=(Turn("user", "another question"),))
    with pytest.raises(UserError, match=r"has none for 1 of 1 examples, such as e0: it was made for other data"):
        with_categories([edited], tmp_path / "c.jsonl")


ROW = {"id": "e0", "prompt_hash": "0", "category": "a"}
DAMAGED = {
    "no JSON": ("{", "row: Invalid JSON"),
    "a list": ("[]", "row: Input should be"),
    "no category": (json.dumps({"id": "e0", "prompt_hash": "0"}), "category: Field required"),
    "a number": (json.dumps(ROW | {"category": 3}), "category: Input should be a valid string"),
    "two lines": (json.dumps(ROW | {"category": "a\nb"}), "category: .* not one line"),
    "an empty one": (json.dumps(ROW | {"category": " "}), "category: .* it is empty"),
    "too long": (json.dumps(ROW | {"category": "a" * 201}), "category: .* too long"),
    "two for one prompt": (json.dumps(ROW | {"category": "b"}), "another category than an earlier row"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_one_line(what: str, tmp_path: Path) -> None:
    line, message = DAMAGED[what]
    path = tmp_path / "c.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(UserError, match=rf"^data\.categories: {path}: line 2 is damaged \({message}") as caught:
        with_categories(examples(1), path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.categories: cannot read .*c\.jsonl .*make it by mmsafe\.tag"):
        texts(tmp_path, "a", 3, categories=tmp_path / "c.jsonl").train()
