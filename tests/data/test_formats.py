"""Files of other frameworks: what becomes of their rows, and how data=auto knows them."""

import csv
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from loopback import Quiet, serving
from reader_rows import READERS, ROWS, error_of, json_file, parquet, picture, reader

from mmsafe.core.config import allow_plugins
from mmsafe.core.errors import UserError
from mmsafe.data.example import Turn, digest, fingerprint

SAID = {"chosen": "A tree.", "rejected": "A house."}
ASKED = (Turn("user", "What is it?", (0,)),)
BE_BRIEF = Turn("system", "Be brief.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/b.png", 200)
    return tmp_path


def said(*texts: str, keys: tuple[str, str] = ("from", "value"), roles: tuple[str, str] = ("human", "gpt")) -> Any:
    return [{keys[0]: roles[number % 2], keys[1]: text} for number, text in enumerate(texts)]


def openai(*texts: str) -> Any:
    return said(*texts, keys=("role", "content"), roles=("user", "assistant"))


# --- LLaMA-Factory -----------------------------------------------------------------------------------------------

ALPACA = {"instruction": "What is", "input": "it?<image>", "images": ["a.png"]}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "sharegpt pairs": (ROWS["llamafactory"], None),
    "sharegpt pairs of texts": (ROWS["llamafactory"] | SAID, None),
    "sharegpt pairs of lists": (
        ROWS["llamafactory"] | {"chosen": said("", "A tree.")[1:], "rejected": said("", "A house.")[1:]},
        None,
    ),
    "alpaca pairs": ({**ALPACA, **SAID, "instruction": "<image>What is it?", "input": ""}, None),
    "described": (
        {"talk": openai("<image>What is it?"), "good": openai("", "A tree.")[1], "bad": openai("", "A house.")[1]}
        | {"pictures": ["a.png"]},
        {
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures"},
            "tags": TAGS,
        },
    ),
    "described alpaca": (
        {"question": "What is it?", "better": "A tree.", "worse": "A house.", "picture": "a.png"},
        {
            "ranking": True,
            "columns": {"prompt": "question", "chosen": "better", "rejected": "worse", "images": "picture"},
        },
    ),
    "described rows of ms-swift's old form": (
        {"query": "<image>What is it?", "response": "A tree.", "rejected_response": "A house.", "images": ["a.png"]},
        {
            "ranking": True,
            "columns": {"prompt": "query", "chosen": "response", "rejected": "rejected_response", "images": "images"},
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["llamafactory", "auto"])
def test_every_form_of_llamafactorys_pairs_is_the_same_example(folder: Path, name: str, form: str) -> None:
    row, entry = FORMS[form]
    path = json_file(folder / "d.json", [row])
    if entry is not None:
        json_file(folder / "dataset_info.json", {"mine": {"file_name": "d.json", **entry}})
    for place in (path, folder) if entry else (path,):
        source = reader(name, place, holdout_share=0)
        (example,) = source.train().examples
        assert (example.turns, example.responses, example.id) == (ASKED, SAID, "1")
        assert example.images[0].name == str(folder / "images/a.png")
        assert source.brings() == {"chosen", "rejected"}


def test_answers_of_llamafactory(folder: Path) -> None:
    chat = {"conversations": said("<image>What is it?", "A tree.", "How tall?", "Very."), "images": ["a.png"]}
    alpaca = {
        "instruction": "How",
        "input": "tall?",
        "output": "Very.",
        "history": [["What is it?<image>", "A tree."]],
        "system": "Be brief.",
        "images": ["a.png"],
    }
    first, second = reader("llamafactory", json_file(folder / "c.json", [chat])).test().examples
    assert (first.id, first.turns, first.responses) == ("1/1", ASKED, {"chosen": "A tree."})
    assert (second.id, second.turns[:2], second.responses) == (
        "1/2",
        (*ASKED, Turn("assistant", "A tree.")),
        {"chosen": "Very."},
    )
    source = reader("llamafactory", json_file(folder / "a.json", [alpaca]), answers="last")
    (last,) = source.test().examples
    assert last.turns == (BE_BRIEF, *ASKED, Turn("assistant", "A tree."), Turn("user", "How\ntall?"))
    assert (last.id, last.responses, source.brings()) == ("1", {"chosen": "Very."}, {"chosen"})


def test_a_set_of_dataset_info_is_chosen_by_split(folder: Path) -> None:
    row = ROWS["llamafactory"]
    for name in ("one", "two"):
        json_file(folder / f"data/{name}.json", [row | {"id": name}])
    entry = {"formatting": "sharegpt", "ranking": True}
    entry["columns"] = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    info = {name: {"file_name": f"data/{name}.json", **entry} for name in ("one", "two")}
    path = json_file(folder / "dataset_info.json", info | {"elsewhere": {"hf_hub_url": "a/b"}})
    source = reader("llamafactory", folder, split="two", eval_split="one")
    assert [[e.id for e in part.examples] for part in (source.train(), source.holdout())] == [["two"], ["one"]]
    assert "set data.split to one of one, two" in error_of(reader("llamafactory", folder))
    assert "has no file for split 'three'; there are: one, two" in error_of(
        reader("llamafactory", folder, split="three")
    )
    path.write_text("{")
    assert "dataset_info.json: cannot be read as JSON" in error_of(reader("llamafactory", folder, split="two"))


BAD_ENTRIES = [
    ({"file_name": "../secret.json"}, "names a file outside of the folder"),
    ({"file_name": "/etc/hostname"}, "names a file outside of the folder"),
    ({"file_name": "d.json", "columns": ["a"]}, "columns and tags have to be objects of names"),
    ({"file_name": "d.json", "tags": {"role_tag": 3}}, "columns and tags have to be objects of names"),
    ({"file_name": "d.json", "columns": {"kto_tag": "label"}}, "unpaired ones (kto_tag) are not read"),
    ({"file_name": "d.json", "ranking": True, "columns": {"prompt": "a"}}, "its columns name no pairs"),
    ({"file_name": "none.json"}, "cannot read"),
    ({"file_name": "d.json", "formatting": "chatml"}, "formatting has to be alpaca, sharegpt or openai"),
    ({"file_name": "d.json", "formatting": "sharegpt", "columns": {"messages": "talk"}}, "'talk' is null"),
]


@pytest.mark.parametrize(("entry", "message"), BAD_ENTRIES)
def test_a_dataset_info_that_is_of_no_use(folder: Path, entry: dict[str, Any], message: str) -> None:
    json_file(folder.parent / "secret.json", [ROWS["llamafactory"]])
    json_file(folder / "d.json", [ROWS["llamafactory"]])
    json_file(folder / "dataset_info.json", {"mine": entry})
    assert message in error_of(reader("llamafactory", folder))


BAD_ROWS = [
    ("llamafactory", {"conversations": None}, "wrong type", "'conversations' is null"),
    ("llamafactory", {"conversations": said("a", "b")}, "malformed conversations", "ends with words of the assistant"),
    ("llamafactory", {"conversations": [{"from": "tool", "value": "a"}]}, "malformed conversations", "alternate"),
    ("llamafactory", {"chosen": [1, 2]}, "wrong type", "'chosen' is a list"),
    ("llamafactory", {"rejected": {"from": "gpt"}}, "wrong type", "'rejected' is null"),
    ("llamafactory", {"system": 3}, "wrong type", "'system' is a number"),
    ("llamafactory", {"videos": ["a.mp4"]}, "column that is not read", "'videos'"),
    ("llamafactory", {"images": ["a.png", "b.png"]}, "number of images", "images of the row: 2"),
]
SWIFT = {"messages": openai("<image>What is it?", "A tree."), "rejected_response": "A house.", "images": ["a.png"]}
BAD_SWIFT = [
    ({"rejected_messages": openai("a", "b")}, "two conversations", "has both"),
    ({"rejected_response": None, "rejected_messages": openai("Why?", "A house.")}, "two conversations", "one answer"),
    ({"rejected_images": ["b.png"]}, "column that is not read", "'rejected_images'"),
    ({"messages": openai("a")}, "wrong type", "'prompt' is an empty list"),
    ({"messages": "a"}, "missing field", "has no 'prompt'"),
    ({"rejected_response": None}, "malformed prompt", "ends with words of the assistant"),
    ({"messages": [*openai("<image>a"), {"role": "assistant", "content": "b", "loss": False}]}, "column", "'loss'"),
    ({"messages": [*openai("<image>a"), openai("", "b")[1] | {"loss_scale": 0.5}]}, "column", "'loss_scale'"),
]


@pytest.mark.parametrize(
    ("name", "row", "changes", "reason", "message"),
    [
        *((name, ROWS[name], *bad) for name, *bad in BAD_ROWS),
        *(("trl", SWIFT, *bad) for bad in BAD_SWIFT),
        ("llamafactory", ALPACA | {"output": "A tree."}, {"history": [["a"]]}, "wrong type", "'history' is no list"),
    ],
)
def test_a_bad_row_is_told_with_its_place(
    folder: Path, name: str, row: Any, changes: Any, reason: str, message: str
) -> None:
    path = json_file(folder / "d.json", [row, row | changes | {"id": "bad"}])
    error = error_of(reader(name, path))
    assert f"{path}: row 2 (id 'bad'): " in error
    assert message in error
    dropped = reader(name, path, on_bad="skip").test().dropped
    assert [(found.startswith(reason), count) for found, count in dropped.items()] == [(True, 1)]


# --- ms-swift, TRL's messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        SWIFT,
        SWIFT | {"messages": openai("What is it?", "A tree.")},
        SWIFT | {"rejected_response": None, "rejected_messages": openai("<image>What is it?", "A house.")},
        SWIFT | {"images": [{"bytes": None, "path": "a.png"}]},
        SWIFT | {"rejected_response": [openai("", "A house.")[1]]},
        {"messages": SWIFT["messages"], "images": ["a.png"], "rejected_images": ["a.png"]}
        | {"rejected_messages": openai("<image>What is it?", "A house.")},
    ],
)
def test_pairs_of_swift(folder: Path, row: dict[str, Any]) -> None:
    path = folder / "d.jsonl"
    path.write_text(json.dumps(row))
    for name in ("trl", "auto"):
        (example,) = reader(name, path).test().examples
        assert (example.turns, example.responses) == (ASKED, SAID)
        assert example.images


def test_several_images_of_a_row_of_messages_stand_at_their_places(folder: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    words = openai("<image>What is it?", "A tree.", "Is <image>larger than <image>?", "Yes.")
    row = {"messages": [system, *words], "images": ["a.png", "b.png", "a.png"]}
    first, second = reader("trl_sft", json_file(folder / "d.json", [row])).test().examples
    assert (first.turns, len(first.images), first.responses) == ((BE_BRIEF, *ASKED), 1, {"chosen": "A tree."})
    assert second.turns[-1] == Turn("user", "Is larger than ?", (3, 15))
    assert [Path(image.name).name for image in second.images] == ["a.png", "b.png", "a.png"]
    (last,) = reader("trl_sft", folder / "d.json", answers="last").test().examples
    assert (last.id, last.turns) == ("1", second.turns)
    (pair,) = reader("trl", json_file(folder / "p.json", [row | {"rejected_response": "No."}])).test().examples
    assert (pair.turns, pair.responses) == (second.turns, {"chosen": "Yes.", "rejected": "No."})


# --- Folders and the hub -----------------------------------------------------------------------------------------


def metadata(place: Path, form: str, rows: list[dict[str, Any]]) -> None:
    if form == "parquet":
        Dataset.from_list(rows).to_parquet(place / "metadata.parquet")
    elif form == "jsonl":
        (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        with (place / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_image_folder(tmp_path: Path, form: str) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "a b.png", len(split))
        picture(tmp_path / split / "images/a b.png")  # not the one that is named
        row = {"file_name": "a b.png", "question": f"What is it,\nin {split}?", **SAID}
        metadata(tmp_path / split, form, [row])
    for name in ("spa_vl", "auto"):
        source = reader(name, tmp_path, split="train", eval_split="test")
        for split, part in (("train", source.train()), ("test", source.holdout())):
            (example,) = part.examples
            assert example.turns[0].text == f"What is it,\nin {split}?"
            assert example.images[0].name == str(tmp_path / split / "a b.png")


def test_columns_of_files_in_an_image_folder(folder: Path) -> None:
    row = {"prompt": "Which?", **SAID, "file_names": ["images/a.png", "images/b.png"]}
    metadata(folder, "jsonl", [row])
    (example,) = reader("auto", folder).test().examples
    assert example.turns == (Turn("user", "Which?", (0, 0)),)


def test_a_broken_row_of_a_csv_file(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,prompt,chosen,rejected\nimages/a.png,a,b,c,d\nimages/a.png,a,b,c\n")
    assert "row 1: has more cells than columns" in error_of(reader("trl", folder))
    assert reader("trl", folder, on_bad="skip").test().dropped == {"broken row": 1}
    (folder / "metadata.csv").write_bytes(b"prompt\n\xff\n")
    assert "metadata.csv" in error_of(reader("trl", folder))


def test_a_saved_data_set(folder: Path) -> None:
    rows = [{"messages": openai(f"Question {i}", "A tree."), "rejected_response": "No."} for i in range(3)]
    rows = [row | {"images": [str(folder / "images/a.png")]} for row in rows]
    text = Value("string")
    features = {"messages": List({"role": text, "content": text}), "rejected_response": text}
    saved = Dataset.from_list(rows, features=Features({**features, "images": List(ImageFeature())}))
    DatasetDict({"train": saved, "test": saved}).save_to_disk(str(folder / "saved"))
    examples = reader("auto", folder / "saved", split="train").test().examples
    assert [e.turns[0] for e in examples] == [Turn("user", f"Question {i}", (0,)) for i in range(3)]
    assert [e.images[0].load().size for e in examples] == [(4, 4)] * 3
    saved.save_to_disk(str(folder / "one"))
    assert len(reader("auto", folder / "one").test().examples) == 3


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub that holds the data set `mine/pairs`."""
    picture(tmp_path / "hub/images/a.png")
    (tmp_path / "hub/train.jsonl").write_text("\n".join(json.dumps(SWIFT | {"id": str(i)}) for i in range(3)))
    files = {str(path.relative_to(tmp_path / "hub")): path for path in (tmp_path / "hub").rglob("*.*")}

    class Hub(Quiet):
        def do_GET(self) -> None:  # noqa: N802
            name = self.path.partition("/resolve/")[2].partition("/")[2]
            tag = {"ETag": f'"{digest(name)}"', "X-Repo-Commit": "0" * 40}
            if name in files:
                self.reply(200, files[name].read_bytes(), "application/octet-stream", **tag)
            elif self.path.startswith("/api/datasets/mine/pairs"):
                tree = [
                    {"type": "file", "path": one, "size": path.stat().st_size, "oid": one}
                    for one, path in files.items()
                ]
                about = {"id": "mine/pairs", "sha": "0" * 40, "siblings": [{"rfilename": one} for one in files]}
                self.reply(200, json.dumps(tree if "/tree/" in self.path else about).encode(), **tag)
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    with serving(Hub) as address:
        yield address


def prepare(folder: Path, address: str, name: str = "mine/pairs", number: int = 0) -> tuple[int, str]:
    """Status and message of a command of its own: the hub's client takes its address when it is imported."""
    words = ["data=auto", f"data.path={name}", "data.holdout_share=0", f"out={folder}/out{number}"]
    environment = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "mmsafe.prepare", *words, f"hydra.run.dir={folder}/run{number}"],
        cwd=folder,
        env={**os.environ, **environment, "MMSAFE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_data_set_of_the_hub_is_fetched_once(hub: str, tmp_path: Path) -> None:
    status, told = prepare(tmp_path, hub)
    assert status == 0, told
    status, told = prepare(tmp_path, "http://127.0.0.1:9", number=1)  # where nothing listens
    assert status == 0, told
    one, other = (reader("trl", tmp_path / f"out{number}").test().examples for number in range(2))
    assert [e.id for e in one] == ["0", "1", "2"]
    assert fingerprint(one) == fingerprint(other)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    status, told = prepare(tmp_path, "http://127.0.0.1:9", "mine/others")
    assert status == 2
    assert re.fullmatch(r"mmsafe\.prepare: mine/others: is not in .*; with a network, run `hf download .*`\n", told)


# --- data=auto ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in READERS if name != "auto"])
def test_every_data_set_is_known_by_its_rows(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = json_file(folder / "d.json", [ROWS[name]])
    published, found = reader(name, path, holdout_share=0), reader("auto", path, holdout_share=0)
    assert fingerprint(found.test().examples) == fingerprint(published.test().examples)
    assert found.brings() == published.brings()
    assert found.has_images() == published.has_images()
    assert f"{path}: read by data={name}" in caplog.messages
    examples = found.test().examples
    images = 0 if name == "hh_text" else 1
    turns = sum(len(example.turns) for example in examples)
    assert f"{path}: 1 rows, {len(examples)} examples, {images} images, {turns} turns" in caplog.messages


def test_sets_with_the_same_columns_are_told_apart_by_what_is_in_them(folder: Path) -> None:
    row = {"image": "a.png", "question": "What is it?", **SAID}
    assert reader("auto", json_file(folder / "d.json", [row])).test().examples[0].turns == ASKED
    broken = [ROWS["mmsafe_po"] | {"id": str(i)} for i in range(3)] + [ROWS["spa_vl"]]
    assert "row 4: 'question' holds <image> 0 ×" in error_of(reader("auto", json_file(folder / "e.json", broken)))


def test_rows_of_no_known_set_and_of_several(folder: Path) -> None:
    error = error_of(reader("auto", json_file(folder / "d.json", [{"text": "a", "label": 1}])))
    assert (
        "no row has the fields of a known set; found: text, label; expected: data=beavertails_v: no question" in error
    )
    assert "data=trl_sft: no prompt, completion" in error
    assert "data=vlguard: no instr-resp, image" in error
    assert "data=rlhf_v: no image" in error
    error = error_of(reader("auto", json_file(folder / "d.json", [{"prompt": "a"}])))
    assert "found: prompt, which data=trl and data=trl_sft read alike; choose one" in error
    (folder / "e.jsonl").write_text("")
    assert error_of(reader("auto", folder / "e.jsonl")) == f"{folder}/e.jsonl: no row is in it"
    assert "holds no .json" in error_of(reader("auto", folder / "images"))


def test_what_is_wrong_with_a_folder_is_told_once(folder: Path) -> None:
    for split in ("train", "test"):
        parquet(folder / f"{split}.parquet", [ROWS["spa_vl"] | {"image": (folder / "images/a.png").read_bytes()}])
    assert error_of(reader("auto", folder)).count("set data.split to one of test, train") == 1
    assert len(reader("auto", folder, split="train", eval_split="test").train().examples) == 1


def test_a_reader_of_ones_own_takes_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(# mine/letters\.py\n.*?)```", text, flags=re.DOTALL)
    assert code is not None
    (folder / "mine_to_know.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(folder))
    rows = [{"ask": f"Question {i}", "good": "Yes.", "bad": "No."} for i in range(2)]
    source = reader("auto", json_file(folder / "d.json", rows), readers=["mine_to_know.Letters"])
    with pytest.raises(UserError, match=r"only classes of mmsafe are imported"):
        source.test()
    allow_plugins(["mine_to_know"])
    try:
        assert [e.responses["chosen"] for e in source.test().examples] == ["Yes."] * 2
    finally:
        allow_plugins([])
