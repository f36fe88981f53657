"""Readers of published data sets: what a row becomes, and what is said of rows that are not as published."""

import base64
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from reader_rows import PAIR, READERS, ROWS, error_of, json_file, numbered, parquet, picture, reader
from roots import ROOTS

from mmsafe.core.errors import UserError
from mmsafe.data.example import Turn, fingerprint
from mmsafe.data.mix import Mix
from mmsafe.runs.preflight import check

HH = Path(__file__).resolve().parents[2] / "../shared/data/hh_harmless_base_test.jsonl.gz"
CONF = Path(__file__).resolve().parents[2] / "conf/data"
ASKED = (Turn("user", "What is it?", images=(0,)),)
SAID = {"chosen": "A tree.", "rejected": "A house."}
SFT_ONLY = ("vlguard", "llava_instruct", "trl_sft")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "images/a.png")
    return tmp_path


# --- What a row becomes ------------------------------------------------------------------------------------------

EXPECTED = {
    "spa_vl": {"class1": "Harms", "class2": "Toxic", "class3": "Insult"},
    "beavertails_v": {"category": "weapons", "image_severity": "2"},
    "rlaif_v": {"origin_dataset": "COCO"},
    "rlhf_v": {"origin_dataset": "COCO"},
    "trl": {"turns": "single"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_pair_beside_an_image(folder: Path, name: str) -> None:
    (example,) = reader(name, json_file(folder / "d.json", [ROWS[name]])).test().examples
    assert example.turns == ASKED
    assert example.responses == SAID
    assert example.tags == EXPECTED[name]
    assert example.images
    assert example.images[0].name == str(folder / "images/a.png")


def test_beavertails_more_helpful(folder: Path) -> None:
    path = json_file(folder / "d.json", [ROWS["beavertails_v"]])
    (example,) = reader("beavertails_v", path, preferred="more_helpful").test().examples
    assert example.responses == {"chosen": "A house.", "rejected": "A tree."}


def test_vlguard_makes_an_example_of_every_request_and_finds_images_in_the_folder_of_the_split(tmp_path: Path) -> None:
    picture(tmp_path / "train/bad_ads/a.png")
    unsafe = {
        "id": "8",
        "image": "bad_ads/a.png",
        "safe": False,
        "instr-resp": [{"instruction": "Do?", "response": "No."}],
    }
    rows = [ROWS["vlguard"] | {"image": "bad_ads/a.png"}, unsafe]
    first, second, third = reader("vlguard", json_file(tmp_path / "train.json", rows)).test().examples
    assert (first.id, second.id, third.id) == ("1/safe_instruction", "1/unsafe_instruction", "2")
    assert (first.responses, second.responses, third.responses) == ({"chosen": "A tree."}, *[{"chosen": "No."}] * 2)
    assert [e.tags["request"] for e in (first, second, third)] == ["safe", "unsafe request", "unsafe image"]
    assert first.tags["harmful_subcategory"] == "disinformation"
    assert first.turns == ASKED
    assert first.images[0] is third.images[0]


def test_hh_is_a_conversation_without_image(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS["hh_text"]).encode()))
    (example,) = reader("hh_text", path).test().examples
    assert example.turns == (Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "What is it?"))
    assert (example.responses, example.images, example.tags) == (SAID, (), {"turns": "multi"})


def test_llava_learns_every_answer_or_the_last(folder: Path) -> None:
    path = json_file(folder / "d.json", [ROWS["llava_instruct"]])
    first, second = reader("llava_instruct", path).test().examples
    assert (first.id, first.turns, first.responses) == ("1/1", ASKED, {"chosen": "A tree."})
    assert (second.id, second.responses) == ("1/2", {"chosen": "Very."})
    assert second.turns == (*ASKED, Turn("assistant", "A tree."), Turn("user", "How tall?"))
    (last,) = reader("llava_instruct", path, answers="last").test().examples
    assert (last.id, last.turns) == ("1", second.turns)


def test_llava_rows_without_image(folder: Path) -> None:
    words = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    path = json_file(folder / "d.json", [{"id": "7", "conversations": words}, ROWS["llava_instruct"]])
    example = reader("llava_instruct", path).test().examples[0]
    assert (example.turns, example.images) == ((Turn("user", "Hi"),), ())


@pytest.mark.parametrize("answers", ["all", "last"])
def test_what_was_answered_before_the_image_is_learnt_without_it(folder: Path, answers: str) -> None:
    words = ["Hi", "Hello", "<image>\nWhat is it?", "A tree.", "How tall?", "Very."]
    said = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(words)]
    row = {"id": "7", "image": "a.png", "conversations": said}
    examples = reader("llava_instruct", json_file(folder / "d.json", [row]), answers=answers).test().examples
    expected = [("Hello", [()]), ("A tree.", [(), (0,)]), ("Very.", [(), (0,), ()])]
    shown = [(e.responses["chosen"], [turn.images for turn in e.turns[::2]]) for e in examples]
    assert shown == expected[0 if answers == "all" else 2 :]
    assert [bool(e.images) for e in examples] == [any(places) for _, places in shown]


USER = {"role": "user", "content": "What is it?"}
TREE, HOUSE = ({"role": "assistant", "content": said} for said in SAID.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "What is it?", "chosen": "A tree.", "rejected": "A house."},
        {"prompt": "<image>\nWhat is it?", "chosen": "A tree.", "rejected": "A house."},
        {"prompt": [USER], "chosen": [TREE], "rejected": [HOUSE]},
        {"prompt": "What is it?", "chosen": [TREE], "rejected": [HOUSE]},
        {"prompt": None, "chosen": [USER, TREE], "rejected": [USER, HOUSE]},
        {"prompt": [USER], "chosen": [USER, TREE], "rejected": [USER, HOUSE]},
        {"images": None, "image": "a.png"},
    ],
)
def test_every_form_of_trl_preferences_is_the_same_example(folder: Path, changes: dict[str, Any]) -> None:
    (example,) = reader("trl", json_file(folder / "d.json", [ROWS["trl"] | changes])).test().examples
    assert (example.turns, example.responses) == (ASKED, SAID)
    assert example.images


def test_trl_texts_have_no_image_and_may_bring_blind_responses_and_tags(tmp_path: Path) -> None:
    tags = {"kind": "greeting", "language": None}
    row = {"prompt": "Hi", "chosen": "Yes", "rejected": "No", "blind": "Well", "tags": tags}
    (example,) = reader("trl", json_file(tmp_path / "d.json", [row])).test().examples
    assert (example.turns, example.images) == ((Turn("user", "Hi"),), ())
    assert (example.responses["blind"], example.tags) == ("Well", {"kind": "greeting"})


ANSWERS = {
    "mmsafe_po": ("chosen", "rejected"),
    "spa_vl": ("chosen", "rejected"),
    "beavertails_v": ("response_1", "response_2", "safer_response_id", "more_helpful_response_id"),
    "rlaif_v": ("chosen", "rejected"),
    "mdpo": ("chosen", "rejected"),
    "trl": ("chosen", "rejected"),
    "trl_sft": ("completion",),
}


@pytest.mark.parametrize("absent", ["not there", None, " "])
@pytest.mark.parametrize("name", ANSWERS)
def test_rows_without_responses_are_prompts_and_nothing_is_trained_on_them(
    folder: Path, name: str, absent: str | None
) -> None:
    row = ROWS[name] | dict.fromkeys(ANSWERS[name], absent)
    if absent == "not there":
        row = {field: value for field, value in row.items() if value != absent}
    prompts = reader(name, json_file(folder / "d.json", [row | {"id": "1"}, row | {"id": "2"}]))
    assert [(e.turns, e.responses) for e in prompts.test().examples] == [(ASKED, {})] * 2
    assert [e.id for e in prompts.prompts().examples] == ["1", "2"]
    with pytest.raises(
        UserError, match=r"2 rows are prompts without responses; choose a split to train on; the first: "
    ):
        prompts.train()
    among_pairs = json_file(folder / "d.json", [ROWS[name] | {"id": "1"}, row | {"id": "2"}])
    skipping = reader(name, among_pairs, on_bad="skip", holdout_share=0)
    assert [e.id for e in skipping.prompts().examples] == ["1"] == [e.id for e in skipping.train().examples]
    assert skipping.train().dropped == {"no response": 1}
    assert len(skipping.test().examples) == 2
    with pytest.raises(UserError, match=r"1 rows are prompts .* or leave them out by data\.on_bad=skip; .*row 2"):
        reader(name, among_pairs).train()


def test_vlguard_has_prompts_and_rows_whose_id_is_another_s(folder: Path) -> None:
    safe = [{"safe_instruction": "What?", "response": ""}, {"unsafe_instruction": "Burn it?", "response": "No."}]
    asked = {"id": "7", "image": "a.png", "instr-resp": safe}
    unsafe = asked | {"instr-resp": [{"instruction": "Do?", "response": "No."}]}
    found = reader("vlguard", json_file(folder / "test.json", [asked] * 5 + [unsafe] * 4)).test().examples
    answered = Counter((e.tags["request"], "chosen" in e.responses) for e in found)
    assert answered == {("safe", False): 5, ("unsafe request", True): 5, ("unsafe image", True): 4}
    assert len({e.id for e in found}) == 14


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("rlaif_v", "origin_dataset"),
        ("rlhf_v", "origin_dataset"),
        ("beavertails_v", "category"),
        ("spa_vl", "class1"),
        ("vlguard", "safe"),
    ],
)
def test_what_only_tells_metrics_may_be_missing(folder: Path, name: str, field: str) -> None:
    row = {own: value for own, value in ROWS[name].items() if own != field}
    (example, *_) = reader(name, json_file(folder / "d.json", [row])).test().examples
    assert field not in example.tags


@pytest.mark.parametrize("completion", ["A tree.", [TREE], [USER, TREE]])
def test_trl_answers(folder: Path, completion: Any) -> None:
    row = ROWS["trl_sft"] | {"completion": completion}
    (example,) = reader("trl_sft", json_file(folder / "d.json", [row])).test().examples
    assert (example.turns, example.responses, example.tags) == (ASKED, {"chosen": "A tree."}, {"turns": "single"})


# --- Several images, system messages -----------------------------------------------------------------------------


def part(text: str | None) -> dict[str, str]:
    return {"type": "image"} if text is None else {"type": "text", "text": text}


BETWEEN = [part("Is "), part(None), part("larger than "), part(None), part("?")]
IN_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [part(None), part("What is it?")]},
    {"role": "assistant", "content": "A tree."},
    {"role": "user", "content": [part("And this?"), part(None)]},
]
BE_BRIEF = Turn("system", "Be brief.")
TWO_TURNS = (Turn("user", "What is it?", (0,)), Turn("assistant", "A tree."), Turn("user", "And this?", (0,)))
SEVERAL: list[tuple[str, dict[str, Any], tuple[Turn, ...]]] = [
    ("trl", {"prompt": "Which?"}, (Turn("user", "Which?", (0, 0)),)),
    ("trl", {"prompt": "<image>\n<image>\nWhich?"}, (Turn("user", "Which?", (0, 0)),)),
    ("trl", {"prompt": [{"role": "user", "content": BETWEEN}]}, (Turn("user", "Is larger than ?", (3, 15)),)),
    ("trl", {"prompt": IN_TURNS}, (BE_BRIEF, *TWO_TURNS)),
    ("trl_sft", {"prompt": "A: <image>, B: <image>"}, (Turn("user", "A: , B: ", (3, 8)),)),
    (
        "llava_instruct",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A tree."},
                {"from": "human", "value": "And this?\n<image>"},
                {"from": "gpt", "value": "A house."},
            ]
        },
        (BE_BRIEF, *TWO_TURNS),
    ),
    ("mmsafe_po", {"question": "USER: <image>\n<image>\nWhich? ASSISTANT:"}, (Turn("user", "Which?", (0, 0)),)),
    ("spa_vl", {"question": "Which?"}, (Turn("user", "Which?", (0, 0)),)),
    (
        "mdpo",
        {"prompt": "Be brief. USER: <image>\n<image>\nWhich? ASSISTANT:"},
        (BE_BRIEF, Turn("user", "Which?", (0, 0))),
    ),
]


@pytest.mark.parametrize(("name", "changes", "turns"), SEVERAL)
def test_several_images_stand_where_the_row_says(
    folder: Path, name: str, changes: dict[str, Any], turns: tuple[Turn, ...]
) -> None:
    picture(folder / "images/b.png", 200)
    column = READERS[name].image_columns[0]
    path = json_file(folder / "d.json", [ROWS[name] | changes | {column: ["a.png", "b.png"]}])
    example = reader(name, path).test().examples[-1]
    assert example.turns == turns
    assert [Path(image.name).name for image in example.images] == ["a.png", "b.png"]
    assert [[part for part in parts if not isinstance(part, str)] for _, parts in example.contents()] == [
        [example.images[sum(len(t.images) for t in turns[:number]) + i] for i in range(len(turn.images))]
        for number, turn in enumerate(turns)
    ]
    blind = example.blinded()
    assert (blind.images, {turn.images for turn in blind.turns}) == ((), {()})


def test_what_is_answered_between_two_images_is_learnt_beside_the_first(folder: Path) -> None:
    picture(folder / "images/b.png", 200)
    name, changes, _ = SEVERAL[5]
    path = json_file(folder / "d.json", [ROWS[name] | changes | {"image": ["a.png", "b.png"]}])
    first, last = reader(name, path).test().examples
    assert (first.id, first.turns, len(first.images)) == ("1/1", (BE_BRIEF, TWO_TURNS[0]), 1)
    assert (last.id, last.turns, len(last.images)) == ("1/2", (BE_BRIEF, *TWO_TURNS), 2)


def test_rows_that_share_one_of_their_images_are_held_out_together(folder: Path) -> None:
    """Chains, too: 0 and 1 share an image, 1 and 2 another."""
    names = [picture(folder / f"images/{n}.png", 5 * n).name for n in range(40)]
    rows = [ROWS["trl"] | {"prompt": "Which?", "images": [names[n], names[n + (n % 4 != 3)]]} for n in range(39)]
    data = reader("trl", json_file(folder / "d.json", rows), holdout_share=0.3)
    shown = [{image.name for e in part.examples for image in e.images} for part in (data.train(), data.holdout())]
    assert all(shown)
    assert not shown[0] & shown[1]


# --- Parquet -----------------------------------------------------------------------------------------------------

TABLES = ("spa_vl", "beavertails_v", "rlaif_v", "rlhf_v")


def test_a_table_with_its_images_is_read_as_files_are(folder: Path) -> None:
    name = "spa_vl"
    data = (folder / "images/a.png").read_bytes()
    other = picture(folder / "b.png", 200).read_bytes()
    rows = [ROWS[name] | {"image": image} for image in (data, other, data)]
    examples = reader(name, parquet(folder / "d.parquet", rows), holdout_share=0).test().examples
    (from_file,) = reader(name, json_file(folder / "d.json", [ROWS[name]])).test().examples
    assert fingerprint(examples[:1]) == fingerprint([from_file])
    assert examples[0].images[0] is examples[2].images[0] is not examples[1].images[0]
    assert examples[1].images
    assert examples[1].images[0].load().getpixel((0, 0)) == (200, 0, 0)


def test_a_table_of_lists_of_images(folder: Path) -> None:
    data = (folder / "images/a.png").read_bytes()
    row = {"prompt": "What is it?", **SAID}
    rows = [row | {"images": images} for images in ([data], [data, data], [])]
    loaded = reader("trl", parquet(folder / "d.parquet", rows, "images"), on_bad="skip").test()
    assert [[turn.images for turn in example.turns] for example in loaded.examples] == [[(0,)], [(0, 0)], [()]]
    assert [len(example.images) for example in loaded.examples] == [1, 2, 0]


ENCODED: dict[str, Callable[[bytes], Any]] = {
    "a struct": lambda data: {"bytes": data, "path": "p.png"},
    "a struct without path": lambda data: {"bytes": data},
    "a struct of more": lambda data: {"path": None, "bytes": data, "width": 4},
    "a list of a struct": lambda data: [{"bytes": data, "path": None}],
    "bytes": lambda data: data,
    "a list of bytes": lambda data: [data],
    "a struct with a file's name": lambda _: {"bytes": None, "path": "a.png"},
    "a list with a file's name": lambda _: [{"bytes": None, "path": "a.png"}],
}
WITH_IMAGE = [name for name in READERS if name != "hh_text"]


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "a struct") for name in WITH_IMAGE), *(("mmsafe_po", form) for form in ENCODED)],
)
def test_every_reader_takes_an_image_in_whichever_form_a_table_holds_it(folder: Path, name: str, form: str) -> None:
    row = {field: value for field, value in ROWS[name].items() if field != "images"}
    row |= {"image": ENCODED[form]((folder / "images/a.png").read_bytes())}
    pq.write_table(pa.Table.from_pylist([row]), folder / "d.parquet")
    found = reader(name, folder / "d.parquet").test().examples
    assert fingerprint(found) == fingerprint(reader(name, json_file(folder / "d.json", [ROWS[name]])).test().examples)
    assert found[0].images
    assert found[0].images[0].load().size == (4, 4)


def test_a_struct_of_nothing_is_no_image(folder: Path) -> None:
    data = (folder / "images/a.png").read_bytes()
    words = {"prompt": "What is it?", **SAID, "image": {"bytes": None, "path": None}}
    pq.write_table(
        pa.Table.from_pylist([words, words | {"image": {"bytes": data, "path": None}}]), folder / "d.parquet"
    )
    assert [not e.images for e in reader("trl", folder / "d.parquet").test().examples] == [True, False]


def test_rows_of_one_image_are_held_out_together(tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{i}.png", i).read_bytes() for i in range(10)]
    rows = [ROWS["spa_vl"] | {"image": images[i % 10]} for i in range(40)]
    data = reader("spa_vl", parquet(tmp_path / "d.parquet", rows), holdout_share=0.2)
    train, held = data.train().examples, data.holdout().examples
    assert (len(train), len(held)) == (32, 8)
    assert not {e.images[0].key for e in train if e.images} & {e.images[0].key for e in held if e.images}


def test_splits_of_a_published_folder_and_their_shards(folder: Path) -> None:
    row = ROWS["spa_vl"] | {"image": (folder / "images/a.png").read_bytes()}
    prompt = {name: value for name, value in row.items() if name not in SAID}
    for shard in range(2):
        parquet(folder / f"data/train-{shard:05}-of-00002.parquet", [row])
    parquet(folder / "validation/validation-00000-of-00001.parquet", [row | {"question": "Why?"}])
    parquet(folder / "test/harm/0000.parquet", [prompt])
    data = reader("spa_vl", folder, split="train", eval_split="validation")
    assert [e.id for e in data.train().examples] == ["data/train-00000-of-00002/1", "data/train-00001-of-00002/1"]
    assert [e.turns[0].text for e in data.holdout().examples] == ["Why?"]
    harm = reader("spa_vl", folder, split="harm")
    assert [e.responses for e in harm.test().examples] == [{}]
    with pytest.raises(UserError, match=r"1 rows are prompts without responses; choose a split to train on"):
        READERS["spa_vl"](path=folder, split="harm", holdout_share=0).train()
    assert "set data.split to one of harm, train, validation" in error_of(reader("spa_vl", folder))


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_file_to_evaluate_on_must_not_be_what_is_trained_on(tmp_path: Path, in_folder: bool) -> None:
    file = json_file(tmp_path / "set/test.jsonl", [])
    file.write_text("\n".join(json.dumps(WORDS | {"prompt": f"{i}"}) for i in range(4)))
    (tmp_path / "set/link.jsonl").symlink_to(file)
    path = file.parent if in_folder else file
    options = {"path": path, "split": "test" if in_folder else None}
    for others in ({"eval_path": tmp_path / "set/link.jsonl"}, {"eval_path": file.parent, "eval_split": "test"}):
        with pytest.raises(UserError, match=r"would be evaluated on and trained on, too|is the same file"):
            reader("trl", **options, **others).holdout()


@pytest.mark.parametrize("name", ["trl", "mmsafe_po"])
def test_rows_of_several_splits_are_not_put_together(folder: Path, name: str) -> None:
    rows = [row | {"split": ("train", "test")[i % 2]} for i, row in enumerate(numbered(name, 6))]
    path = json_file(folder / "d.json", rows)
    with pytest.raises(UserError, match=r"has rows of several splits: .* data\.split to one of test, train; data\.ign"):
        reader(name, path).train()
    with pytest.raises(UserError, match=r"would be evaluated on and trained on, too"):
        reader(name, path, eval_split="test").holdout()
    assert len(reader(name, path, split="train", eval_split="test").train().examples) == 3
    assert len(reader(name, path, ignored_columns=["split"], holdout_share=0).train().examples) == 6


def test_a_split_to_evaluate_on_must_not_be_what_is_trained_on(folder: Path) -> None:
    json_file(folder / "words/train/rows.json", [ROWS["hh_text"]])
    with pytest.raises(
        UserError, match=r"data\.eval_split=rows: no row of .* has a 'split', so all would be trained on"
    ):
        reader("hh_text", folder / "words", split="train", eval_split="rows").holdout()
    path = json_file(folder / "d.json", [ROWS["spa_vl"]])
    with pytest.raises(UserError, match=r"data\.eval_split=validation: no row of .* has a 'split'"):
        reader("spa_vl", path, split="train", eval_split="validation").holdout()
    with pytest.raises(UserError, match=r"data\.eval_split is the same as data\.split"):
        reader("spa_vl", path, split="train", eval_split="train")


# --- What is not as published ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_set_with_other_fields(folder: Path, name: str) -> None:
    error = error_of(reader(name, json_file(folder / "d.json", [{"text": "a", "label": 1}])))
    assert "d.json: no row has " in error
    assert "; found: text, label; expected: " in error


@pytest.mark.parametrize("name", READERS)
def test_what_to_get_is_said(name: str) -> None:
    with pytest.raises(UserError, match=r"^data\.path is not set: get .* set data\.path to "):
        READERS[name]()


HUMAN, GPT, SYSTEM = ({"from": speaker, "value": "a"} for speaker in ("human", "gpt", "system"))
WHOLE, IGNORED, NUMBER = "a whole conversation", "column that is not read", "number of images"
BAD: list[tuple[str, Any, str, str]] = [
    ("mmsafe_po", [1, 2], "not an object", "is a list, where an object"),
    *[("mmsafe_po", {name: ...}, "missing field", f"no field '{name}'") for name in (*PAIR, "image")],
    ("mmsafe_po", {"rejected": None}, "wrong type", "'rejected' is null"),
    ("mmsafe_po", {"image": [["a.png"]]}, "wrong type", "'image' is a list"),
    ("mmsafe_po", {"image": []}, "missing image", "'image' is an empty list"),
    ("mmsafe_po", {"image": ["a.png", "a.png"]}, NUMBER, "<image> 1 ×, images of the row: 2"),
    ("spa_vl", {"question": "<image> or <image>?", "image": ["a.png"] * 3}, NUMBER, "2 ×, images of the row: 3"),
    ("mdpo", {"prompt": "What is it?"}, "malformed prompt", "does not begin with a speaker"),
    ("mmsafe_po", {"blind": {}}, "wrong type", "'blind' is an object"),
    ("mmsafe_po", {"type": True}, "wrong type", "'type' is true or false"),
    ("mmsafe_po", {"type": "a\nb"}, "no category", "'type' is not the name of a category"),
    ("mmsafe_po", {"id": []}, "wrong type", "'id' is a list"),
    ("mmsafe_po", {"chosen": "\ud800"}, "broken text", "'chosen' holds half a surrogate pair at 0"),
    ("mmsafe_po", {"question": "USER: <image><image> ASSISTANT:"}, NUMBER, "<image> 2 ×, images of the row: 1"),
    ("mmsafe_po", {"question": "What? <image>"}, "malformed question", "does not begin with a speaker"),
    ("mmsafe_po", {"chosen": "ASSISTANT: \n"}, "empty response", "'chosen' is empty"),
    ("mmsafe_po", {"blind": ""}, "empty response", "'blind' is empty"),
    ("mmsafe_po", {"chosen": "A house. "}, "no preference", "are the same"),
    ("mmsafe_po", {"chosen": "See <image>."}, "image in response", "'chosen' holds <image>"),
    ("mmsafe_po", {"image": "../x"}, "missing image", "leads out of the image folder"),
    ("mmsafe_po", {"image": "cut.png"}, "damaged image", "cut.png: the image cannot be decoded"),
    ("mmsafe_po", {"image": "page.png"}, "damaged image", "page.png: is not an image"),
    ("mmsafe_po", {"id": 1}, "duplicate id", "an earlier row has the same id"),
    ("spa_vl", {"chosen": None}, "wrong type", "'chosen' is null"),
    ("spa_vl", {"question": " "}, "malformed question", "empty turn"),
    ("spa_vl", {"question": "<image><image>"}, NUMBER, "2 ×"),
    ("spa_vl", {"class1": "a\nb"}, "no category", "'class1'"),
    ("beavertails_v", {"safer_response_id": 0}, "no preference", "neither 1 nor 2"),
    ("beavertails_v", {"safer_response_id": True}, "no preference", "neither 1 nor 2"),
    ("rlhf_v", {"text": "{"}, "broken text", "'text' is not JSON"),
    ("rlhf_v", {"text": "[" * 100_000}, "broken text", "'text' is not JSON"),
    ("rlhf_v", {"text": "3"}, "wrong type", "'text' holds a number"),
    ("rlaif_v", {"rejected": "A tree. "}, "no preference", "are the same"),
    ("vlguard", {"instr-resp": []}, "wrong type", "'instr-resp' is a list"),
    ("vlguard", {"instr-resp": [{"question": "a"}]}, "missing field", "has none of instruction"),
    ("hh_text", {"rejected": "\n\nHuman: Ho\n\nAssistant: A house."}, "two conversations", "differ"),
    (
        "hh_text",
        {k: f"\n\nHuman: <image>{v}" for k, v in ROWS["hh_text"].items()},
        "malformed chosen",
        "does not begin with",
    ),
    ("hh_text", {k: v.replace("Hi", "<image>") for k, v in ROWS["hh_text"].items()}, NUMBER, "<image>"),
    ("spa_vl", {"question": "USER: Hi ASSISTANT: Ho USER: <image>\nWhy? ASSISTANT:"}, WHOLE, "data=mmsafe_po reads"),
    ("rlaif_v", {"question": "USER: <image>\nWhy?"}, WHOLE, "data=mmsafe_po reads"),
    ("trl", {"prompt": "\n\nHuman: Hi\n\nAssistant:"}, WHOLE, "in one text, which data=hh_text reads"),
    ("trl", {"prompt": None, **ROWS["hh_text"]}, WHOLE, "which data=hh_text reads"),
    ("trl", {"prompt": None, **PAIR}, "missing field", "has no 'prompt', and its responses are not"),
    ("trl", {"prompt": None, "chosen": GPT, "conversations": [1]}, "missing field", "; try data=auto"),
    ("llava_instruct", {"conversations": [GPT]}, "malformed conversations", "beginning with the user"),
    ("llava_instruct", {"conversations": [GPT, HUMAN, GPT]}, "malformed conversations", "beginning with the user"),
    ("llava_instruct", {"conversations": [SYSTEM, GPT]}, "malformed conversations", "beginning with the user"),
    ("llava_instruct", {"conversations": [HUMAN, SYSTEM, GPT]}, "system message", "is not the first"),
    ("llava_instruct", {"conversations": [HUMAN | {"tools": "[]"}, GPT]}, IGNORED, "'tools' in a message"),
    ("trl_sft", {"label": False}, "labelled false", "'label' calls a bad one"),
    ("trl", {"images": ["a.png"], "image": "b.png"}, "missing image", "no image 'b.png'"),
    ("beavertails_v", {"image_severity": "a\nb"}, "no category", "'image_severity'"),
    ("llava_instruct", {"image": None}, NUMBER, "images of the row: 0"),
    ("trl", {"prompt": [USER, {"role": "system", "content": "a"}]}, "system message", "is not the first"),
    ("trl", {"chosen": [USER | {"tool_calls": [1]}, TREE]}, IGNORED, "'tool_calls' in a message"),
    ("trl", {"prompt": [USER | {"content": [{"type": "image", "url": "b.png"}]}]}, IGNORED, "'url' in a part"),
    ("trl", {"tags": {"a\nb": "c"}}, "no category", "not one line"),
    ("trl", {"prompt": None}, "missing field", "has no 'prompt'"),
    ("trl", {"images": ["a.png"] * 2}, NUMBER, "1 ×, images of the row: 2"),
    ("trl", {"images": []}, NUMBER, "images of the row: 0"),
    ("trl", {"chosen": [USER]}, "two conversations", "'chosen' is not one answer"),
    ("trl", {"chosen": None}, "wrong type", "'chosen' is null"),
    ("trl", {"tags": {"kind": 3}}, "wrong type", "'kind' is a number"),
    ("trl_sft", {"completion": [USER]}, "two conversations", "'completion' is not one answer"),
    ("trl_sft", {"images": [3]}, "wrong type", "'image' is a number"),
    ("trl", {"prompt": [{"role": "user", "content": [{"type": "video"}]}]}, "wrong type", "neither text nor image"),
    *[(name, {"image": "b.png"}, "missing image", "no image 'b.png'") for name in TABLES],
    *[(name, {"image": 3}, "wrong type", "'image' is a number") for name in (*TABLES, "vlguard", "llava_instruct")],
]


@pytest.mark.parametrize(("name", "changes", "reason", "message"), BAD)
def test_a_bad_row(folder: Path, name: str, changes: Any, reason: str, message: str) -> None:
    Image.effect_noise((64, 64), 80).save(cut := folder / "images/cut.png")
    cut.write_bytes(cut.read_bytes()[:-1000])
    (folder / "images/page.png").write_text("<html>404</html>")
    bad = changes
    if isinstance(changes, dict):
        bad = {field: value for field, value in (ROWS[name] | {"id": "bad"} | changes).items() if value is not ...}
    path = json_file(folder / "d.json", [ROWS[name], bad])
    error = error_of(reader(name, path))
    place = "row 2 (id 'bad'): " if isinstance(changes, dict) and "id" not in changes else "row 2"
    assert f"{path}: {place}" in error
    assert message in error
    assert error.endswith("; data.on_bad=skip drops and counts them")
    loaded = reader(name, path, on_bad="skip").test()
    assert loaded.dropped == {reason: 1}
    assert loaded.examples


WORDS = {"prompt": "What is it?", "completion": "A tree.", **SAID}
BASE64 = base64.b64encode(bytes(range(256))).decode()
UNREAD = [
    *[("trl", WORDS, {name: "a"}, f"image_column={name}") for name in ("img_path", "imagePath", "image_id", "jpg")],
    ("trl", WORDS, {"file": "x/B.PNG"}, "image_column=file"),
    ("trl", WORDS, {"media": ["a.jpg"]}, "image_column=media"),
    ("trl", WORDS, {"link": "https://a.org/b.jpeg?c=d"}, "image_column=link"),
    ("trl", WORDS, {"extra": {"shown": "a.webp"}}, "image_column=extra"),
    ("trl", WORDS, {"extra": {"a": [{"b": {"shown": "a.webp#1"}}]}}, "image_column=extra"),
    ("trl", WORDS, {"media": [{"type": "image", "data": "a"}]}, "image_column=media"),
    ("trl", WORDS, {"media": BASE64}, "image_column=media"),
    ("trl", WORDS | {"prompt": "<image>\nWhat is it?"}, {"img_path": "a.png"}, "data.image_column=img_path"),
    ("trl_sft", WORDS, {"image_path": "a.png"}, "data.image_column=image_path"),
    ("llava_instruct", {"conversations": ROWS["llava_instruct"]["conversations"]}, {"images": ["a.png"]}, "=images"),
    ("hh_text", ROWS["hh_text"], {"image": "a.png"}, "is read as words alone"),
    *[(name, ROWS[name], {"system": "Be kind."}, "which is not read") for name in READERS if name != "llamafactory"],
    ("llamafactory", ROWS["llamafactory"], {"tools": "[]"}, "which is not read"),
    *[
        ("trl", ROWS["trl"], {name: "a"}, "which is not read")
        for name in ("videos", "tools", "systemPrompt", "sys-prompt")
    ],
    ("trl", ROWS["trl"], {"clip": "a.MP4"}, "which is not read"),
    ("trl", ROWS["trl"], {"image_2": "a.png"}, "beside an image that is read"),
]


@pytest.mark.parametrize(("name", "row", "more", "message"), UNREAD)
def test_a_column_that_means_something_is_not_left_out_in_silence(
    folder: Path, name: str, row: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    (column,) = more
    error = error_of(reader(name, json_file(folder / "d.json", [row | more])))
    assert "d.json: row 1" in error
    assert f"has '{column}', " in error
    assert message in error
    if "<image>" in str(row) and not message.startswith("which"):
        return  # of no use without its image
    rows = [row | {"id": str(i)} | own for i, own in enumerate((more, {column: None}, {column: []}))]
    path = json_file(folder / "d.json", rows)
    assert reader(name, path, on_bad="skip").test().dropped == {IGNORED: 1}
    assert reader(name, path, ignored_columns=[column]).test().dropped == {}


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("hh_text", "mdpo")])
def test_an_image_column_of_another_name(folder: Path, name: str) -> None:
    row = {column: value for column, value in ROWS[name].items() if column not in ("image", "images")}
    rows = [ROWS[name], row | {"img_path": "a.png"}, row | {"img_path": ["a.png"]}]
    published, *others = (reader(name, json_file(folder / f"{i}.json", [row])) for i, row in enumerate(rows))
    for source in others:
        found = replace(source, image_column="img_path").test().examples
        assert fingerprint(found) == fingerprint(published.test().examples)
    assert "no row has img" in error_of(replace(published, image_column="img"))
    column = "image" if "image" in ROWS[name] else "images"
    both = reader(name, json_file(folder / "both.json", [rows[1] | {"id": "1"}, rows[0] | {"id": "2"}]))
    assert f"no image that is read: data.image_column={column} " in error_of(replace(both, image_column="img_path"))
    with pytest.raises(UserError, match=r"data\.image_column: this data set is of words alone"):
        reader("hh_text", folder, image_column="image")


@pytest.mark.parametrize(("count", "share", "advice"), [(1, 0.5, "data.eval_path"), (2, 0, "raise data.holdout_share")])
def test_what_to_do_where_nothing_is_held_out(folder: Path, count: int, share: float, advice: str) -> None:
    rows = [WORDS | {"prompt": f"Question {i % count}"} for i in range(4)]
    part = reader("trl", json_file(folder / "d.json", rows), holdout_share=share)
    for source in (part, Mix(parts={"a": part})):
        assert source.holdout().examples == []
        assert advice in source.to_hold_out()
        assert ("raise data.holdout_share" in source.to_hold_out()) == (share == 0)


# --- Together with the rest --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_what_a_reader_brings_is_what_its_examples_have(folder: Path, name: str) -> None:
    data = reader(name, json_file(folder / "d.json", numbered(name, 3)), holdout_share=0)
    assert all(data.brings() == example.responses.keys() for example in data.train().examples)
    assert data.brings() == ({"chosen"} if name in SFT_ONLY else {"chosen", "rejected"})


def test_answers_without_a_preference_need_sft(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data: has no rejected responses, which the objective reads; objective=sft"):
        check("train", ROOTS["train"], ["data=vlguard", f"data.path={tmp_path}", "objective=dpo"])


@pytest.mark.parametrize(
    ("file", "name", "image"),
    [
        ("set/d.json", "p.png", "set/images/p.png"),
        ("set/d.json", "images/p.png", "set/images/p.png"),  # from the file's own folder
        ("set/d.json", "{root}/set/images/p.png", "set/images/p.png"),
        ("set/d.json", "pictures/p.png", "set/pictures/p.png"),  # though there is a folder `images`, too
        ("set/json/d.json", "images/p.png", "set/images/p.png"),  # one folder up
        ("set/json/d.json", "p.png", "set/images/p.png"),
        ("set/d.json", "set/pictures/p.png", "set/pictures/p.png"),  # from the folder that the set is in
        ("set/json/d.json", "pictures/p.png", None),  # of what is one folder up, images only
        ("set/d.json", "../other/p.png", None),
        ("set/d.json", "{root}/other/p.png", None),
    ],
)
def test_where_images_are_looked_for(tmp_path: Path, file: str, name: str, image: str | None) -> None:
    for folder in ("set/images", "set/pictures", "set/json", "other"):
        picture(tmp_path / folder / ("p.png" if folder != "set/json" else "else.png"))
    row = ROWS["trl"] | {"images": [name.format(root=tmp_path)]}
    data = reader("trl", json_file(tmp_path / file, [row]))
    if image is None:
        with pytest.raises(UserError, match=r"no image|leads out of the image folder"):
            data.test()
    else:
        assert data.test().examples[0].images[0].name == str(tmp_path / image)


def test_an_image_folder_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/p.png")
    picture(tmp_path / "images/q.png")
    for name in ("p.png", "pictures/p.png", str(tmp_path / "pictures/p.png")):
        file = json_file(tmp_path / "d.json", [ROWS["trl"] | {"images": [name]}])
        (example,) = reader("trl", file, image_dir=tmp_path / "pictures").test().examples
        assert example.images[0].name == str(tmp_path / "pictures/p.png")
    file = json_file(tmp_path / "d.json", [ROWS["trl"] | {"images": ["images/q.png"]}])
    for place, message in (("pictures", r"no image 'images/q\.png' in"), ("none", "image_dir: no such folder")):
        with pytest.raises(UserError, match=message):
            reader("trl", file, image_dir=tmp_path / place).test()


def test_one_image_by_several_names_stays_on_one_side(tmp_path: Path) -> None:
    picture(tmp_path / "images/p.png")
    picture(tmp_path / "images/q.png")
    names = ["p.png", "images/p.png", str(tmp_path / "images/p.png"), "p%2Epng", "q.png"]
    rows = [row | {"images": [name]} for row, name in zip(numbered("trl", 5), names, strict=True)]
    data = reader("trl", json_file(tmp_path / "d.json", rows), holdout_share=0.5)
    sides = [{example.images[0].name for example in part.examples} for part in (data.train(), data.holdout())]
    assert not sides[0] & sides[1]
    assert all(sides)


def test_importing_the_readers_is_cheap() -> None:
    modules = ", ".join(f"{cls.__module__}" for cls in READERS.values())
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'}"
    code = f"import sys, mmsafe.data.mix, mmsafe.data.corruption, {modules}; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.skipif(
    not HH.is_file(), reason="../shared/data/hh_harmless_base_test.jsonl.gz is not beside this checkout"
)
def test_the_real_hh_rows() -> None:
    # Only numbers are compared, so that a failure prints no text of the set. Counted by splitting at `\\n\\nHuman:`
    # and `\\n\\nAssistant:`: 8 chosen transcripts do not alternate, 5 more rows differ in what rejected ones do.
    loaded = reader("hh_text", HH, on_bad="skip").test()
    assert len(loaded.examples) + sum(loaded.dropped.values()) == 2312
    assert loaded.dropped["malformed chosen"] == 8
    assert loaded.dropped["empty response"] == 4
    assert all(len(example.turns) % 2 for example in loaded.examples)
    assert PAIR.keys() >= loaded.examples[0].responses.keys()
    data = reader("hh_text", HH, on_bad="skip")
    train, held = data.train().examples, data.holdout().examples
    assert not {e.turns[0].text for e in train} & {e.turns[0].text for e in held}
    assert len(train) + len(held) == len(loaded.examples)
