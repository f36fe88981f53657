import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reader_rows import picture

from mmsafe.core.errors import UserError
from mmsafe.data.conversation import parse_question
from mmsafe.data.example import Turn, fingerprint
from mmsafe.data.holdout import hold_out
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.data.row_error import RowError

SAMPLE = Path(__file__).resolve().parents[2] / "../shared/data/mmsafe_po_sample.json"
NAME = "tbn:ANd9Gc(1)"  # no extension, as about 40 % of the real names


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A row with all real fields; a field set to `...` is left out."""
    full = {
        "id": number,
        "question": f"USER: <image>\nWhat is thing {number}? ASSISTANT:",
        "image": NAME,
        "chosen": "ASSISTANT: A tree.",
        "rejected": "ASSISTANT: A house.",
        "type": "harmless",
        "entity": "Oak",
        "entity_type": "MISC",
        "replacement": "this thing",
        "text_prompt": "USER: What is Oak? ASSISTANT:",
        "mid_prompt": "USER: <image>\nWhat is this thing? ASSISTANT:",
    }
    return {field: value for field, value in (full | changes).items() if value is not ...}


def write(folder: Path, rows: Any, name: str = "data.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith(".jsonl") else json.dumps(rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "images" / NAME)
    return tmp_path


def error_of(folder: Path, rows: Any, **changes: Any) -> str:
    """The message for a data set, which must be one line."""
    with pytest.raises(UserError) as caught:
        MMSafePO(path=write(folder, rows), **changes).test()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Reading what is right ---------------------------------------------------------------------------------------


def test_a_row_becomes_an_example(folder: Path) -> None:
    question = "USER: Hello. ASSISTANT: Hello!\nYes? USER: <image>\nWhat is\nthis? ASSISTANT:"
    data = MMSafePO(path=write(folder, [row(7, question=question, blind="ASSISTANT: Unseen.")]))
    (example,) = data.test().examples
    assert example.id == "7"
    assert example.turns == (
        Turn("user", "Hello."),
        Turn("assistant", "Hello!\nYes?"),
        Turn("user", "What is\nthis?", images=(0,)),
    )
    assert example.responses == {"chosen": "A tree.", "rejected": "A house.", "blind": "Unseen."}
    assert example.tags == {"type": "harmless", "entity_type": "MISC", "turns": "multi"}
    assert example.images
    assert example.images[0].load().size == (4, 4)


def test_only_four_fields_are_required(folder: Path) -> None:
    bare = {"question": "USER: <image>\nWhat?", "image": NAME, "chosen": "a", "rejected": "b"}
    first, second = MMSafePO(path=write(folder, [bare, bare | {"id": None, "blind": None}])).test().examples
    assert (first.id, second.id) == ("1", "2")
    assert first.tags == {"turns": "single"}
    assert first.responses == second.responses == {"chosen": "a", "rejected": "b"}


def test_jsonl_with_byte_order_mark_and_blank_lines(folder: Path) -> None:
    lines = "\n".join(
        [json.dumps(row(1)), "", "  ", json.dumps(row(2, chosen="line\u2028separator"), ensure_ascii=False)]
    )
    (folder / "data.jsonl").write_text(lines, encoding="utf-8-sig")
    examples = MMSafePO(path=folder / "data.jsonl").test().examples
    assert [example.id for example in examples] == ["1", "2"]


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_a_folder_and_a_split(folder: Path, name: str) -> None:
    write(folder, [row(1)], name)
    write(folder, [row(2)], "test.json")
    assert [e.id for e in MMSafePO(path=folder, split="train").test().examples] == ["1"]
    with pytest.raises(UserError, match=r"set data\.split to one of test, train"):
        MMSafePO(path=folder).test()
    with pytest.raises(UserError, match=r"did you mean 'train'.*there are: test, train"):
        MMSafePO(path=folder, split="trian").test()


def test_split_filters_rows_that_carry_one(folder: Path) -> None:
    path = write(folder, [row(1, split="train"), row(2, split="test"), row(3, split="train")])
    assert [e.id for e in MMSafePO(path=path, split="train").test().examples] == ["1", "3"]
    assert len(MMSafePO(path=path).test().examples) == 3
    with pytest.raises(UserError, match=r"data\.split: no row of .*did you mean 'test'"):
        MMSafePO(path=path, split="tset").test()
    assert len(MMSafePO(path=write(folder, [row(1), row(2)]), split="anything").test().examples) == 2


def test_a_row_without_split_among_rows_with_split(folder: Path) -> None:
    for other in (row(2), row(2, split=3)):
        assert "row 2 (id 2): has no text field 'split'" in error_of(folder, [row(1, split="a"), other], split="a")


@pytest.fixture
def keyed(folder: Path) -> Path:
    write(folder, [row(1), row(2)], "parts/people.json")
    write(folder, [row(1)], "parts/places.jsonl")
    return write(folder, {"people": "parts/people.json", "places": "parts/places.jsonl"})


def test_a_keyed_file(keyed: Path) -> None:
    examples = MMSafePO(path=keyed).test().examples
    assert [example.id for example in examples] == ["people/1", "people/2", "places/1"]
    assert [example.tags["keyword"] for example in examples] == ["people", "people", "places"]


def test_keywords_choose_files(keyed: Path) -> None:
    examples = MMSafePO(path=keyed, keywords=["places", "places"]).test().examples
    assert [example.id for example in examples] == ["places/1"]
    with pytest.raises(UserError, match=r"no keyword 'peple' .did you mean 'people'.*there are: people, places"):
        MMSafePO(path=keyed, keywords=["peple"]).test()
    with pytest.raises(UserError, match=r"no row is in it"):
        MMSafePO(path=keyed, keywords=[]).test()
    assert "data.keywords is set" in error_of(keyed.parent, [row()], keywords=["a"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": "none.json"}, "keyword 'a' of .*data.json: cannot read .*none.json: No such file"),
        ({"a": "data.json"}, "keyword 'a' of .*data.json: .* holds an object"),
        ({"a": 1}, "is one JSON object, where a list of rows"),
        (row(), "is one JSON object, where a list of rows"),
        ({}, "no row is in it"),
        ({"a": "null\0byte"}, "keyword 'a'.*null byte"),
    ],
)
def test_broken_keyed_files(folder: Path, parts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MMSafePO(path=write(folder, parts)).test()


# --- Parsing questions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("USER: What is <image> this?", "What is  this?"),
        ("USER: What is this? <image>\n ASSISTANT:", "What is this?"),
        ("USER:<image>\nWhat? ASSISTANT:", "What?"),
        ("USER: <image>\nMy POWERUSER: 5 ASSISTANT:", "My POWERUSER: 5"),
        ("USER: <image> ASSISTANT:", ""),
    ],
)
def test_unusual_questions(question: str, text: str) -> None:
    assert parse_question(question) == (Turn("user", text, images=(0,)),)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "<image> 0 ×"),
        ("USER: What? ASSISTANT:", "<image> 0 ×"),
        ("USER: <image>\nWhat? ASSISTANT: A. USER: <image>\nAnd? ASSISTANT:", "<image> 2 ×"),
        ("<image>\nWhat?", "does not begin with a speaker"),
        ("Hello USER: <image>\nWhat?", "does not begin with a speaker"),
        ("ASSISTANT: <image>\nHi. USER: What?", "does not alternate"),
        ("ASSISTANT: <image>", "does not alternate"),
        ("USER: <image>\nOne USER: Two ASSISTANT:", "does not alternate"),
        ("USER: <image>\nOne ASSISTANT: ASSISTANT: ASSISTANT:", "does not alternate"),
        ("USER: <image>\nWhat? ASSISTANT: Well,", "ends with words of the assistant"),
        ("USER: What? ASSISTANT: <image> USER: Why?", "<image> in a turn of the assistant"),
        ("USER: <image> ASSISTANT: USER: Why?", "empty turn of the assistant"),
        ("USER: <image>\nWhat? ASSISTANT: A. USER: ASSISTANT:", "empty turn of the user"),
    ],
)
def test_malformed_questions(question: str, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_question(question)


# --- Bad rows ----------------------------------------------------------------------------------------------------


def test_header_check_leaves_truncation_to_loading(folder: Path) -> None:
    Image.effect_noise((64, 64), 80).save(cut := folder / "images/cut.png")
    cut.write_bytes(cut.read_bytes()[:-1000])
    path = write(folder, [row(1, image="cut.png")])
    (example,) = MMSafePO(path=path, check_images="header").test().examples
    with pytest.raises(UserError, match=r"cut\.png"):
        example.images[0].load()  # type: ignore[union-attr]


def test_other_bad_rows_are_counted(folder: Path) -> None:
    rows = [row(1), row(2, chosen=""), row(3, image="none"), row(4, image="none")]
    assert "(id 2): 'chosen' is empty; and 2 more bad rows; data.on_bad=skip" in error_of(folder, rows)
    loaded = MMSafePO(path=folder / "data.json", on_bad="skip").train()
    assert loaded.dropped == {"empty response": 1, "missing image": 2}


def test_messages_quote_no_text(folder: Path) -> None:
    secret = "quite private words"
    for bad in (row(chosen=secret, rejected=secret), row(question=secret), row(chosen=[secret]), [secret]):
        assert secret not in error_of(folder, [bad])


def test_all_rows_bad(folder: Path) -> None:
    error = error_of(folder, [row(1, chosen=""), row(2, image="none")], on_bad="skip")
    assert "no row can be used: {'empty response': 1, 'missing image': 1}; the first: " in error
    assert "no row is in it" in error_of(folder, [])


# --- Broken files and options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"id": 1},\n {"id" 2}]', r"a\.json: broken JSON at line 2, column 8: Expecting ':'"),
        ("a.json", b"", "broken JSON at line 1, column 1"),
        ("a.json", b"{}\n{}", r"line 2, column 1: Extra data; rows one per line need .* \.jsonl"),
        ("a.jsonl", b'{}\n{"id": }', r"a\.jsonl: broken JSON at line 2, column 8"),
        ("a.json", b'["\n', "Invalid control character"),
        ("a.json", b'[\n"\xff"]', "line 2 is not UTF-8 text"),
        ("a.jsonl", b'{}\n\n"\xff"', "line 3 is not UTF-8 text"),
        ("a.json", "[]".encode("utf-16"), "line 1 is not UTF-8 text"),
        ("a.json", b"[" * 200_000, "cannot be read as JSON|broken JSON"),
        ("a.json", b"[" + b"1" * 10_000 + b"]", "cannot be read as JSON"),
        ("a.json", b"3", "holds a number, where a list of rows"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        MMSafePO(path=tmp_path / name).test()
    assert "\n" not in str(caught.value)


def test_a_path_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path: cannot read .*none\.json: No such file"):
        MMSafePO(path=tmp_path / "none.json").train()
    with pytest.raises(UserError, match=r"data\.path: the folder .* holds no \.json"):
        MMSafePO(path=tmp_path, split="test").train()


def test_evaluation_file(folder: Path) -> None:
    train, test = write(folder, [row(1), row(2)]), write(folder, [row(9), row(10, chosen="")], "test.json")
    data = MMSafePO(path=train, eval_path=test, on_bad="skip")
    assert [e.id for e in data.train().examples] == ["1", "2"]
    assert [e.id for e in data.holdout().examples] == ["9"]
    assert (data.train().dropped, data.holdout().dropped) == ({}, {"empty response": 1})
    with pytest.raises(UserError, match=r"data\.eval_path: cannot read"):
        MMSafePO(path=train, eval_path=folder / "none.json").holdout()
    with pytest.raises(UserError, match=r"data\.eval_path is the same file"):
        MMSafePO(path=train, eval_path=folder / "images" / ".." / "data.json")


# --- Holding out -------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(20):
        picture(tmp_path / "images" / f"{number}", number)
    # A picture is named in two ways; the group must be one.
    return write(
        tmp_path,
        [row(i, image=f"{i % 20}" if i % 3 else f"%3{i % 20}") for i in range(1, 10)]
        + [row(i, image=str(i % 20)) for i in range(10, 60)],
    )


def test_holdout_is_the_same_in_any_order_and_every_time(many: Path) -> None:
    first = MMSafePO(path=many).holdout().examples
    assert fingerprint(first) == fingerprint(MMSafePO(path=many).holdout().examples)
    write(many.parent, json.loads(many.read_text())[::-1])
    assert {e.id for e in first} == {e.id for e in MMSafePO(path=many).holdout().examples}


def test_extreme_shares(many: Path) -> None:
    none, everything = MMSafePO(path=many, holdout_share=0), MMSafePO(path=many, holdout_share=1)
    assert (len(none.train().examples), len(none.holdout().examples)) == (59, 0)
    assert len(everything.holdout().examples) == 59
    with pytest.raises(UserError, match=r"data\.holdout_share=1 leaves nothing"):
        everything.train()


@given(
    st.lists(st.sets(st.sampled_from("abcdefghijkl"), min_size=1, max_size=2).map(sorted), min_size=1), st.floats(0, 1)
)
def test_hold_out_leaves_neither_side_empty(rows: list[list[str]], share: float) -> None:
    """Rows that share a name, if need be through others, are on one side."""
    held = hold_out(rows, share)
    assert held == hold_out(rows[::-1], share)[::-1]
    groups: list[set[str]] = []
    for names in rows:
        groups = [group for group in groups if not group & {*names}] + [
            {*names}.union(*(group for group in groups if group & {*names}))
        ]
    sides = [{is_held for names, is_held in zip(rows, held, strict=True) if group & {*names}} for group in groups]
    assert all(len(side) == 1 for side in sides)
    if len(groups) > 1 and 0 < share < 1:
        smallest = min(sum(bool(group & {*names}) for names in rows) for group in groups)
        assert 0 < sum(held) < len(rows)
        assert sum(held) <= max(round(share * len(rows)), smallest)
    if share == 0:
        assert not any(held)


# --- The real thing ----------------------------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    if not SAMPLE.is_file():
        pytest.skip("../shared/data/mmsafe_po_sample.json is not beside this checkout")
    for number, entry in enumerate(json.loads(SAMPLE.read_text(encoding="utf-8"))):
        picture(tmp_path / unquote(entry["image"]), number)
    return SAMPLE


def test_the_real_sample(sample: Path, tmp_path: Path) -> None:
    # Only numbers are compared, so that a failure prints no text of the sample.
    data = MMSafePO(path=sample, image_dir=tmp_path)
    loaded = data.test()
    turns = [len(example.turns) for example in loaded.examples]
    shown = [[turn.images for turn in example.turns] for example in loaded.examples]
    answers = [text for example in loaded.examples for text in example.responses.values()]
    assert (len(loaded.examples), loaded.dropped) == (90, {})
    assert (turns.count(1), turns.count(3), turns.count(5), turns.count(7), max(turns)) == (46, 14, 20, 9, 21)
    assert all(places[-1] == (0,) and not any(places[:-1]) for places in shown)
    assert sum("ASSISTANT:" in text or "<image>" in text for text in answers) == 0
    assert len({example.images for example in loaded.examples}) == 76
    assert len(data.train().examples) == 81
    assert len(data.holdout().examples) == 9
