"""`mmsafe.prepare`: what comes back is what was there, in folders that are complete or not there."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from any_rows import ANY
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launching import launch, succeed
from reader_rows import READERS, ROWS, json_file, numbered, parquet, picture

from mmsafe.core import progress
from mmsafe.core.errors import UserError
from mmsafe.curation.preparation.preparing import PrepareConfig, prepare
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example, fingerprint
from mmsafe.data.mix import Mix
from mmsafe.data.readers.auto import Auto
from mmsafe.data.readers.llamafactory import LLaMAFactory
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.data.readers.trl_sft import TRLSupervised
from mmsafe.microworld.reader import MicroWorld

SFT_ONLY = ("vlguard", "llava_instruct", "trl_sft")
WITH_IMAGES = [name for name in READERS if name != "hh_text"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "images/a.png")
    return tmp_path


def prepared(source: DataSource, out: Path, splits: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """Prepare; returns what `prepared.json` tells."""
    options = {"format": "parquet", "images": "embedded", "max_shard_size": 10**9} | changes
    settings = options.pop("settings", {})
    prepare(PrepareConfig(data=source, out=out, splits=splits, **options), settings)
    return dict(json.loads((out / "prepared.json").read_text()))


def read_back(source: DataSource, out: Path, split: str, **options: Any) -> list[Example]:
    reader = TRLSupervised if source.brings() == {"chosen"} else TRLPreference
    return reader(path=out, split=split, **options).test().examples


def read_by_peers(source: DataSource, out: Path, form: str, split: str, **options: Any) -> list[Example]:
    """What is in a set of LLaMA-Factory's or ms-swift's format."""
    answers = {"answers": "last"} if form == "llamafactory" or source.brings() == {"chosen"} else {}
    pairs = TRLSupervised if answers else TRLPreference
    return (
        (LLaMAFactory if form == "llamafactory" else pairs)(path=out, split=split, **answers, **options).test().examples
    )


def same(found: Iterable[Example], wanted: Iterable[Example]) -> None:
    """Equal in all that there is to an example; images by the bytes of their files."""
    parts = [
        [(e.id, e.turns, dict(e.responses), dict(e.tags), e.cut, [image.key for image in e.images]) for e in examples]
        for examples in (found, wanted)
    ]
    assert parts[0] == parts[1]


def trl_texts(folder: Path, count: int, words: str = "yes") -> TRLPreference:
    rows = [{"prompt": f"Question {i}", "chosen": words, "rejected": "no"} for i in range(count)]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TRLPreference(path=path, holdout_share=0)


# --- What comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), list(enumerate(READERS)))
def test_every_reader_comes_back_as_it_was(folder: Path, number: int, name: str) -> None:
    form = ("parquet", "arrow")[number % 2]
    source = READERS[name](path=json_file(folder / "d.json", numbered(name, 5)), holdout_share=0)
    about = prepared(source, folder / "out", format=form)
    same(read_back(source, folder / "out", "train"), source.train().examples)
    assert about["splits"]["train"]["fingerprint"] == fingerprint(source.train().examples)
    loaded = load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"))
    assert list(loaded) == ["train"]
    assert loaded["train"].column_names == about["columns"]
    if name in WITH_IMAGES:
        assert loaded["train"][0]["images"][0].size == (4, 4)
        assert loaded["train"][0]["prompt"][0]["content"][0]["type"] == "image"
    else:
        assert loaded["train"][0]["prompt"][-1] == {"role": "user", "content": "What is it?"}


@pytest.mark.parametrize("form", ["llamafactory", "swift"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_comes_back_from_files_of_other_frameworks(folder: Path, name: str, form: str) -> None:
    source = READERS[name](path=json_file(folder / "d.json", numbered(name, 5)), holdout_share=0)
    about = prepared(source, folder / "out", format=form)
    found = read_by_peers(source, folder / "out", form, "train")
    same(found, source.train().examples)
    assert all(Path(image.name).is_relative_to(folder / "out") for example in found for image in example.images)
    assert about["splits"]["train"]["fingerprint"] == fingerprint(source.train().examples)
    loaded = load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"), split="train")
    assert sorted(loaded.column_names) == sorted(about["columns"])
    if "llava" not in name:  # whose conversations have several answers, of which `auto` learns every one
        same(Auto(path=folder / "out", holdout_share=0).test().examples, source.train().examples)


def test_what_llamafactory_is_told(folder: Path) -> None:
    row = ROWS["mmsafe_po"] | {"blind": "Well.", "id": "1"}
    source = READERS["mmsafe_po"](path=json_file(folder / "d.json", [row]), holdout_share=0)
    prepared(source, folder / "out", format="llamafactory")
    entry = json.loads((folder / "out/dataset_info.json").read_text())["train"]
    (written,) = map(json.loads, (folder / "out" / entry["file_name"]).read_text().splitlines())
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    assert written[entry["columns"]["messages"]] == [{"role": "user", "content": "<image>\nWhat is it?"}]
    assert written[entry["columns"]["chosen"]] == {"role": "assistant", "content": "A tree."}
    assert written[entry["columns"]["rejected"]] == {"role": "assistant", "content": "A house."}
    (image,) = written[entry["columns"]["images"]]
    assert (folder / "out" / image).read_bytes() == (folder / "images/a.png").read_bytes()
    assert written["blind"] == "Well."
    assert "`blind` and `weakened` are read by mmsafe alone" in (folder / "out/README.md").read_text()


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_shards_are_one_set(folder: Path, form: str) -> None:
    other = picture(folder / "images/b.png", 200)
    turns = [{"role": role, "content": f"{role} speaks"} for role in ("user", "assistant", "user")]
    words = {"prompt": turns, "images": [], "blind": "Well, a tree?", "tags": {"kind": "words"}}
    rows = [ROWS["trl"], ROWS["trl"] | words, ROWS["trl"] | {"images": [other.name], "id": "seven"}] * 4
    rows = [row | {"id": f"{row.get('id', 'row')}-{number}"} for number, row in enumerate(rows)]
    source = TRLPreference(path=json_file(folder / "d.json", rows), holdout_share=0)
    about = prepared(source, folder / "out", format=form, max_shard_size=300)
    assert len(about["splits"]["train"]["shards"]) > 3
    found = read_back(source, folder / "out", "train")
    same(found, source.train().examples)
    assert {len(example.turns) for example in found} == {1, 3}
    streamed = load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"), split="train", streaming=True)
    assert [row["id"] for row in streamed] == [row["id"] for row in rows]


@pytest.mark.parametrize("images", ["embedded", "referenced"])
@pytest.mark.parametrize("form", ["parquet", "llamafactory", "swift"])
def test_several_images_of_a_row_come_back_where_they_were(folder: Path, images: str, form: str) -> None:
    """And rows that share one of them are held out as a training run holds them out."""
    names = [picture(folder / f"images/{n}.png", 9 * n).name for n in range(20)]
    prompts = ["<image>\n<image>\nWhich?", "A: <image>, B: <image>", "First <image>\nand then <image> - why?"]
    rows = [
        ROWS["trl"] | {"prompt": prompts[n % 3], "images": [names[n], names[n + (n % 3 != 2)]], "id": str(n)}
        for n in range(19)
    ]
    source = TRLPreference(path=json_file(folder / "d.json", rows), holdout_share=0.3)
    prepared(source, folder / "out", images=images, format=form)
    where = {"image_dir": folder / "images"} if images == "referenced" else {}
    for split, part in (("train", source.train()), ("test", source.holdout())):
        found = read_back(source, folder / "out", split, **where) if form == "parquet" else None
        same(found or read_by_peers(source, folder / "out", form, split, **where), part.examples)


@pytest.mark.parametrize("name", ["spa_vl", "beavertails_v", "rlaif_v", "rlhf_v"])
def test_images_in_tables(folder: Path, name: str) -> None:
    images = [picture(folder / f"{i}.png", i).read_bytes() for i in range(3)]
    path = parquet(folder / "d.parquet", [ROWS[name] | {"image": images[i % 3]} for i in range(7)])
    source = READERS[name](path=path, holdout_share=0)
    prepared(source, folder / "out")
    same(read_back(source, folder / "out", "train"), source.train().examples)


def test_train_and_test_are_those_of_a_training_run(folder: Path) -> None:
    for i in range(12):
        picture(folder / f"images/{i}.png", i * 20)
    rows = [ROWS["mmsafe_po"] | {"id": i, "image": f"{i % 12}.png"} for i in range(40)]
    source = READERS["mmsafe_po"](path=json_file(folder / "d.json", rows), holdout_share=0.25)
    prepared(source, folder / "out")
    for split, side in (("train", source.train()), ("test", source.holdout())):
        assert len(side.examples) >= 5
        same(read_back(source, folder / "out", split), side.examples)
    again = TRLPreference(path=folder / "out", split="train", eval_split="test")
    same(again.holdout().examples, source.holdout().examples)


def test_what_is_evaluated_on_becomes_the_test_split(folder: Path) -> None:
    train = json_file(folder / "train.json", numbered("mmsafe_po", 4))
    source = READERS["mmsafe_po"](path=train, eval_path=json_file(folder / "e.json", numbered("mmsafe_po", 2)))
    prepared(source, folder / "out")
    same(read_back(source, folder / "out", "train"), source.train().examples)
    same(read_back(source, folder / "out", "test"), source.holdout().examples)


def test_published_splits_are_kept_whole(folder: Path) -> None:
    row = ROWS["spa_vl"] | {"image": (folder / "images/a.png").read_bytes()}
    prompt = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    for shard in range(2):
        parquet(folder / f"set/data/train-{shard:05}-of-00002.parquet", [row, row])
    parquet(folder / "set/validation.parquet", [row])
    parquet(folder / "set/harm.parquet", [prompt])
    source = READERS["spa_vl"](path=folder / "set", split="train", eval_split="validation")
    about = prepared(source, folder / "out", splits=["train", "validation", "harm"])
    assert {name: split["rows"] for name, split in about["splits"].items()} == {"train": 4, "validation": 1, "harm": 1}
    assert set(load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"))) == {"train", "validation", "harm"}
    for split in about["splits"]:
        whole = replace(source, split=split, eval_split=None)
        same(read_back(source, folder / "out", split), whole.test().examples)
    with pytest.raises(UserError, match=r"data\.split: .* has no file for split 'tset'"):
        prepared(source, folder / "other", splits=["tset"])


@pytest.mark.parametrize(
    ("name", "unanswered"),
    [
        ("mmsafe_po", {"chosen": None, "rejected": None}),
        ("vlguard", {"instr-resp": [{"safe_instruction": "What is it?", "response": ""}]}),
    ],
)
def test_prompts_alone_are_prepared_by_name_and_left_out_of_what_is_trained_on(
    folder: Path, name: str, unanswered: dict[str, Any]
) -> None:
    prompt, answered = ROWS[name] | {"id": "1"} | unanswered, ROWS[name] | {"id": "2"}
    source = READERS[name](path=json_file(folder / "p.json", [prompt]))
    prepared(source, folder / "prompts", splits=["test"])
    same(read_back(source, folder / "prompts", "test"), source.test().examples)
    prepared(source, folder / "swift", splits=["test"], format="swift")
    same(read_by_peers(source, folder / "swift", "swift", "test"), source.test().examples)
    with pytest.raises(UserError, match=r"^format=llamafactory: has no place for prompts without responses"):
        prepared(source, folder / "other", splits=["test"], format="llamafactory")
    both = READERS[name](path=json_file(folder / "d.json", [prompt, answered]), on_bad="skip", holdout_share=0)
    assert prepared(both, folder / "out")["refused"] == {"no response": 1} == both.train().dropped
    same(read_back(both, folder / "out", "train"), both.train().examples)


def test_rows_of_a_file_are_of_the_split_that_they_name(folder: Path) -> None:
    rows = [{"prompt": f"{i}", "chosen": "yes", "rejected": "no", "split": "ab"[i % 2]} for i in range(6)]
    path = folder / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"has rows of several splits"):
        prepared(TRLPreference(path=path), folder / "both")
    prepared(TRLPreference(path=path), folder / "out", splits=["b"])
    assert [
        row["prompt"][0]["content"]
        for row in load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"), split="b")
    ] == ["1", "3", "5"]


def test_drawn_images_and_mixtures(folder: Path) -> None:
    world = MicroWorld(size=6, test_size=3)
    prepared(world, folder / "world")
    found = read_back(world, folder / "world", "test")
    for one, other in zip(found, world.holdout().examples, strict=True):
        assert (one.id, one.turns, one.responses, one.tags) == (other.id, other.turns, other.responses, other.tags)
        assert one.images
        assert other.images
        assert one.images[0].load().tobytes() == other.images[0].load().tobytes()
    mixed = Mix(parts={"words": trl_texts(folder, 4), "world": world}, weights={"words": 1, "world": 2})
    prepared(mixed, folder / "mixed")
    found = read_back(mixed, folder / "mixed", "train")
    assert [e.id for e in found] == [e.id for e in mixed.train().examples]
    assert {e.tags["source"] for e in found} == {"words", "world"}


def test_sets_of_the_same_name_are_told_apart_by_the_cache_of_datasets(folder: Path) -> None:
    for name, words in (("a", "yes"), ("b", "oui")):
        prepared(trl_texts(folder, 2, words), folder / name / "out")
    for name, words in (("a", "yes"), ("b", "oui")):
        loaded = load_dataset(str(folder / name / "out"), split="train", cache_dir=str(folder / "hf"))
        assert [row["chosen"][0]["content"] for row in loaded] == [words] * 2


# --- Referenced images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_referenced_images_stay_where_they_are(
    folder: Path, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(folder)
    picture(folder / "pictures/here/a.png")
    data = json_file(folder / "data/d.json", numbered("mmsafe_po", 3))
    source = READERS["mmsafe_po"](path=data, image_dir="pictures/here", holdout_share=0)
    prepared(source, folder / "out", format=form, images="referenced")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"), split="train")[0]["images"][0].size == (4, 4)
    found = read_back(source, folder / "out", "train", image_dir=folder / "pictures")
    assert [example.images[0].name for example in found] == [str(folder / "pictures/here/a.png")] * 3
    with pytest.raises(UserError, match="out of the image folder"):  # a set cannot choose which files are opened
        read_back(source, folder / "out", "train", image_dir=folder / "images")


def test_images_in_tables_cannot_be_referenced(folder: Path) -> None:
    path = parquet(folder / "d.parquet", [ROWS["spa_vl"] | {"image": (folder / "images/a.png").read_bytes()}])
    with pytest.raises(UserError, match=r"^images=referenced: .*row 1: is in no file of its own; choose images=emb"):
        prepared(READERS["spa_vl"](path=path, holdout_share=0), folder / "out", images="referenced")


# --- Rows that cannot be used ------------------------------------------------------------------------------------


def bad_rows(folder: Path) -> Path:
    (folder / "images/b.png").write_bytes(b"<html>")
    rows = [*numbered("mmsafe_po", 4), *numbered("mmsafe_po", 1)]
    rows[1] = rows[1] | {"chosen": "ASSISTANT:"}
    rows[2] = rows[2] | {"image": "b.png"}
    return json_file(folder / "d.json", rows)


def test_refused_rows_are_told_one_by_one(folder: Path) -> None:
    source = READERS["mmsafe_po"](path=bad_rows(folder), holdout_share=0, on_bad="skip")
    about = prepared(source, folder / "out")
    same(read_back(source, folder / "out", "train"), source.train().examples)
    assert about["refused"] == {"empty response": 1, "damaged image": 1, "duplicate id": 1} == source.train().dropped
    assert "1 damaged image, 1 duplicate id, 1 empty response" in (folder / "out/README.md").read_text()
    refused = [json.loads(line) for line in (folder / "out/refused.jsonl").read_text().splitlines()]
    assert [(row["place"].rpartition(": ")[2], row["reason"]) for row in refused] == [
        ("row 2 (id 1)", "empty response"),
        ("row 3 (id 2)", "damaged image"),
        ("row 5 (id 0)", "duplicate id"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"d\.json: row 2 \(id 1\): 'chosen' is empty; data\.on_bad=skip drops and counts such rows$"),
        ([{"text": "a"}, {"label": 1}], r"d\.json: no row has question, .*; found: text, label; expected: "),
        ([], "no row is in it"),
    ],
)
def test_a_bad_row_leaves_no_folder(folder: Path, rows: Any, message: str) -> None:
    path = bad_rows(folder) if rows is None else json_file(folder / "d.json", rows)
    with pytest.raises(UserError, match=message):
        prepared(READERS["mmsafe_po"](path=path), folder / "out")
    assert {one.name for one in folder.iterdir()} == {"images", "d.json"}


def test_what_has_no_format_in_trl(folder: Path) -> None:
    answers = READERS["trl_sft"](path=json_file(folder / "d.json", [ROWS["trl_sft"]]), holdout_share=0)
    with pytest.raises(UserError, match=r"^data: some examples have a rejected response and others only an answer"):
        prepared(Mix(parts={"pairs": trl_texts(folder, 1), "answers": answers}), folder / "out")
    with pytest.raises(UserError, match=r"^splits: MicroWorld has no published ones"):
        prepared(MicroWorld(size=2), folder / "out", splits=["train"])
    prompts = [{"prompt": "Hi", "chosen": None, "rejected": None}]
    source = TRLPreference(path=json_file(folder / "p.json", prompts), holdout_share=0)
    with pytest.raises(UserError, match=r"1 rows are prompts without responses; name their split in splits="):
        prepared(source, folder / "out")


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), share=st.sampled_from([0, 0.3]), split=st.sampled_from([None, None, "train"]))
def test_anything_is_streamed_as_it_is_read_as_a_whole_and_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject, share: float, split: str | None
) -> None:
    monkeypatch.setattr(progress, "is_first", lambda: False)
    lines, out = folder / "d.jsonl", folder / "out"
    lines.write_text("\n".join(json.dumps(row) for row in data.draw(ANY[name])))
    options = {"path": lines, "on_bad": "skip", "split": split, "check_images": "header", "holdout_share": share}
    source = READERS[name](**options)
    try:
        loaded = source.train()
    except UserError:
        with pytest.raises(UserError):
            prepared(READERS[name](**options), out)
        return
    for form in ("llamafactory", "swift"):
        prepared(source, out, format=form)
        same(read_by_peers(source, out, form, "train"), loaded.examples)
        if held := source.holdout().examples:
            same(read_by_peers(source, out, form, "test"), held)
        shutil.rmtree(out)
    about = prepared(source, out)
    same(read_back(source, out, "train"), loaded.examples)
    if held := source.holdout().examples:
        same(read_back(source, out, "test"), held)
    assert (about["refused"], set(about["splits"])) == (loaded.dropped, {"train", "test"} if held else {"train"})
    shutil.rmtree(out)


# --- Folders -----------------------------------------------------------------------------------------------------


def test_a_finished_set_is_left_alone_and_no_other_is_written_over(folder: Path) -> None:
    source = trl_texts(folder, 3)
    prepared(source, folder / "out")
    before = (folder / "out/data/train-00000-of-00001.parquet").stat()
    prepared(source, folder / "out")
    assert (folder / "out/data/train-00000-of-00001.parquet").stat() == before
    with pytest.raises(UserError, match="holds a set of other options, or of files that have changed"):
        prepared(source, folder / "out", settings={"seed": 1})
    trl_texts(folder, 4)
    with pytest.raises(UserError, match="holds a set of other options, or of files that have changed"):
        prepared(source, folder / "out")
    with pytest.raises(UserError, match="is there already and not empty"):
        prepared(source, folder / "images")
    for content in ("", "[]", "[" * 100_000):
        (folder / "out/prepared.json").write_text(content)
        with pytest.raises(UserError, match=r"prepared\.json: is damaged"):
            prepared(source, folder / "out")


def test_a_set_is_not_written_among_the_files_that_it_is_made_from(folder: Path) -> None:
    parquet(folder / "set/train.parquet", [ROWS["spa_vl"] | {"image": (folder / "images/a.png").read_bytes()}])
    source = Mix(parts={"spa": READERS["spa_vl"](path=folder / "set", holdout_share=0)})
    with pytest.raises(UserError, match=r"out=.*: is in .*set, whose files are read; name a folder elsewhere"):
        prepared(source, folder / "set/prepared")


def test_a_killed_command_leaves_nothing_that_loads_and_can_be_repeated(folder: Path) -> None:
    source = trl_texts(folder, 5_000)
    words = [
        "data=trl",
        f"data.path={source.path}",
        "data.holdout_share=0",
        f"out={folder}/out",
        "max_shard_size=20KB",
    ]
    words.append(f"hydra.run.dir={folder}/run")
    process = subprocess.Popen([sys.executable, "-m", "mmsafe.prepare", *words], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 100
    while not list(folder.glob(".out.unfinished/data/*")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "out").exists()
    done = succeed("prepare", *words, cwd=folder)
    assert "5000 of train" in done.err
    assert load_dataset(str(folder / "out"), cache_dir=str(folder / "hf"), split="train").num_rows == 5_000
    assert not (folder / ".out.unfinished").exists()
    again = launch("prepare", *words, cwd=folder)
    assert (again.status, "is finished" in again.err) == (0, True)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("format=csv", 'format="csv": must be one of parquet, arrow, llamafactory, swift'),
        ("max_shard_size=big", 'max_shard_size="big": '),
        ("splits=[a-b]", 'splits.0="a-b": '),
        ("imags=embedded", "did you mean 'images'"),
    ],
)
def test_a_wrong_option_is_one_line(word: str, message: str, tmp_path: Path) -> None:
    done = launch("prepare", f"out={tmp_path}/out", word, cwd=tmp_path)
    assert done.status == 2
    assert re.fullmatch(rf"mmsafe\.prepare: .*{re.escape(message)}.*\n", done.err)
