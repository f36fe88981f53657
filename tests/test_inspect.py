"""`mmsafe.inspect`: statistics, repetitions and leakage of small sets that were counted by hand."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import Ended, launch, succeed
from PIL import Image
from reader_rows import PAIR, READERS, ROWS, json_file, numbered, picture

from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import MEANING
from mmsafe.curation.inspection.inspecting import read_splits
from mmsafe.curation.inspection.looks import NEAR, alike, difference_hash
from mmsafe.curation.inspection.row_statistics import statistics, summary
from mmsafe.curation.inspection.rows import Inspected, look_through
from mmsafe.data.data_source import DataSource
from mmsafe.data.mix import Mix
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.data.readers.spa_vl import SPAVL
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.microworld.reader import MicroWorld
from mmsafe.objectives.dpo import DPO
from mmsafe.scoring.lengths import fitting

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "mmsafe_po_sample.json"
TOKENS = "tokens_"
PREFERENCE = ("chosen", "rejected")


def inspect(place: Path, *words: str) -> Ended:
    return launch("inspect", "model=random", *words, "hydra.run.dir=out", cwd=place)


def looked(data: DataSource, llava: Any, splits: list[str] | None = None, rule: Lengths | None = None) -> Inspected:
    """As the command does it, without its files."""
    loaded = read_splits(data, splits)
    return look_through(loaded, llava.encoder(), data.brings(), rule or Lengths(), decode=True)


def splits_of(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "out" / "statistics.json").read_text())["splits"])


def rows_of(place: Path) -> list[dict[str, str]]:
    with (place / "out" / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def flags_of(place: Path) -> dict[str, dict[str, str]]:
    """By id or place, the flags that a row has."""
    return {
        entry["id"] or entry["place"]: {flag: entry[flag] for flag in MEANING if entry[flag]}
        for entry in rows_of(place)
    }


def pattern(path: Path, seed: int, size: int = 64) -> Path:
    """An image that is unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((size, size), resample=Image.Resampling.BICUBIC).save(path)
    return path


def row(name: str, said: str | list[str], image: str, chosen: str = "A tree.", rejected: str = "A house.") -> Any:
    """A row of `data=trl`; a list of turns is a conversation."""
    turns = [said] if isinstance(said, str) else said
    prompt = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    return {"id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected, "image": image}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits `train` and `test`, in which everything is wrong that there is a flag for."""
    place = tmp_path_factory.mktemp("pairs")
    images = place / "set" / "images"
    for number, name in enumerate(("a", "b", "other")):
        pattern(images / f"{name}.png", number)
    shutil.copy(images / "b.png", images / "copy_of_b.png")
    with Image.open(images / "a.png") as image:
        image.resize((200, 150)).save(images / "like_a.jpg", quality=80)
    whole = pattern(images / "cut.png", 9).read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    train = [
        row("a", "A secret?", "a.png"),
        row("b", " a  SECRET? ", "a.png"),
        row("c", "A secret?", "b.png", "Yes.", "No."),
        row("d", "Missing?", "nowhere.png"),
        row("e", "Damaged?", "cut.png", "Yes.", "Hardly."),
        row("f", "Same?", "a.png", "Secretly.", "Secretly."),
        row("g", ["A secret?", "Perhaps, secretly.", "Why?"], "b.png", "Yes. ", "yes."),
    ]
    test = [
        row("h", "A Secret?", "copy_of_b.png", "Perhaps.", "Secretly."),
        row("i", "Who?", "like_a.jpg"),
        row("j", "When?", "other.png", "Now.", "Never."),
    ]
    json_file(place / "set/train.json", train)
    json_file(place / "set/test.json", test)
    return place


@pytest.fixture(scope="module")
def inspected(pairs: Path) -> Ended:
    """The command on them; it fails after all is written, for flags that rows have."""
    ended = inspect(pairs, *SETS, "fail_on=[leaked_image,repeated_row,over_length]")
    assert ended.status == 1, ended.err
    assert "mmsafe.inspect: fail_on: 3 × leaked_image, 1 × repeated_row" in ended.err
    return ended


SETS = ("data=trl", "data.path=set", "data.split=train", "data.eval_split=test")


@pytest.mark.usefixtures("inspected")
def test_flags_by_hand(pairs: Path) -> None:
    assert flags_of(pairs) == {
        "set/train.json: row 4 (id 'd')": {"bad_row": "missing image", "missing_image": "missing image"},
        "set/train.json: row 6 (id 'f')": {"bad_row": "no preference", "equal_responses": "no preference"},
        "set/train.json: row 5 (id 'e')": {"bad_row": "damaged image", "damaged_image": "damaged image"},
        "a": {"leaked_instruction": "holdout: h", "leaked_conversation": "holdout: h", "leaked_look": "holdout: i"},
        "b": {
            "repeated_instruction": "a",
            "repeated_instruction_and_image": "a",
            "repeated_responses": "a",
            "repeated_row": "a",
            "leaked_instruction": "holdout: h",
            "leaked_conversation": "holdout: h",
            "leaked_look": "holdout: i",
        },
        "c": {
            "repeated_instruction_exact": "a",
            "repeated_instruction": "a",
            "leaked_instruction": "holdout: h",
            "leaked_conversation": "holdout: h",
            "leaked_image": "holdout: h",
        },
        "g": {"equal_responses": "chosen and rejected", "leaked_image": "holdout: h"},
        "h": {"leaked_instruction": "train: a", "leaked_conversation": "train: a", "leaked_image": "train: c"},
        "i": {"leaked_look": "train: a"},
        "j": {},
    }


@pytest.mark.usefixtures("inspected")
def test_statistics_by_hand(pairs: Path) -> None:
    """Of the rows a, b, c and g that can be used: two instructions that differ, two images, one in several turns."""
    train, holdout = splits_of(pairs).values()
    counted = ("instructions", "distinct_instructions", "responses", "images", "rows_without_image", "multi_turn")
    assert [train[name] for name in counted] == [4, 2, 8, 2, 0, 1]
    assert [holdout[name] for name in counted] == [3, 3, 6, 3, 0, 0]
    assert train["turns"] == {"1": 3, "3": 1}
    assert train["tags"] == {"turns": {"single": 3, "multi": 1}}
    assert train["dropped"] == {"missing image": 1, "damaged image": 1, "no preference": 1}
    assert {flag: count for flag, count in train["flags"].items() if count} == {
        "bad_row": 3,
        "missing_image": 1,
        "damaged_image": 1,
        "equal_responses": 2,
        "repeated_instruction_exact": 1,
        "repeated_instruction": 2,
        "repeated_instruction_and_image": 1,
        "repeated_responses": 1,
        "repeated_row": 1,
        "leaked_instruction": 3,
        "leaked_conversation": 3,
        "leaked_image": 2,
        "leaked_look": 2,
    }
    assert holdout["image_size"]["width"] == {"n": 3, "mean": 109.33, "median": 64.0, "p95": 186.4, "max": 200.0}


def test_no_word_of_the_data_is_printed_or_stands_outside_of_the_page(pairs: Path, inspected: Ended) -> None:
    files = [path for path in (pairs / "out").rglob("*") if path.is_file() and path.name != "inspect.html"]
    assert {"statistics.json", "rows.csv", "turns.svg"} <= {path.name for path in files}
    said = inspected.out + inspected.err + "".join(path.read_bytes().decode(errors="ignore") for path in files)
    assert "secret" not in said.lower()
    assert "secret" in (pairs / "out" / "inspect.html").read_text().lower()


def test_tokens_are_those_of_a_model_with_its_weights(pairs: Path, inspected: Ended, llava: Any) -> None:
    """Against the encoder of a training run."""
    encoder = llava.encoder()
    source = TRLPreference(path=pairs / "set", split="train", eval_split="test", on_bad="skip")
    told = {entry["id"]: entry for entry in rows_of(pairs)}
    for example in source.train().examples:
        chosen, rejected = (len(encoder.response_ids(example.responses[name])) for name in ("chosen", "rejected"))
        prompt, turns = len(encoder.prompt_ids(example)), [len(encoder.text_ids(turn.text)) for turn in example.turns]
        found = {name: int(value) for name, value in told[example.id].items() if name.startswith(TOKENS)}
        expected = {"instruction": turns[-1], "conversation": sum(turns), "prompt": prompt}
        expected |= {"chosen": chosen, "rejected": rejected, "sequence": prompt + max(chosen, rejected)}
        assert found == {TOKENS + name: count for name, count in expected.items()}
        assert prompt > sum(turns) + 16, "the image has 16 tokens, the template has some"
    assert "counted by model=random: 752 different tokens, 16 for an image" in inspected.out


def test_a_summary_by_hand() -> None:
    """The 95th percentile of five numbers is a fifth of the way back from the last to the one before it."""
    assert summary([10, 1, 2, 3, 4]) == {"n": 5, "mean": 4.0, "median": 3.0, "p95": 8.8, "max": 10.0}
    assert summary([]) == {"n": 0}


@pytest.mark.parametrize("on_overlong", ["clip", "clip_others", "drop"])
def test_lengths_are_counted_as_a_training_run_counts_them(tmp_path: Path, llava: Any, on_overlong: str) -> None:
    """At 90 tokens, with chosen, rejected or prompt too long, and with none of them."""
    picture(tmp_path / "images/a.png")
    long = "tree " * 60
    rows = [
        row("fits", "What is it?", "a.png"),
        row("chosen", "What is it?", "a.png", chosen=long),
        row("rejected", "What is it?", "a.png", rejected=long),
        row("prompt", long * 2, "a.png"),
    ]
    data = TRLPreference(path=json_file(tmp_path / "set.json", rows), holdout_share=0)
    rule = Lengths(max_length=90, on_overlong=on_overlong)
    found = looked(data, llava, rule=rule)
    kept, report = fitting(data.train().examples, llava.encoder(), PREFERENCE, rule)
    assert report["dropped"] > 0
    told = {"fits": 1} | {fate: count for fate, count in report.items() if count}
    assert statistics(found)["train"]["length"] == told
    dropped = {facts.id for facts in found.rows["train"] if facts.flags.get("over_length") == "dropped"}
    assert dropped == {entry["id"] for entry in rows} - {example.id for example in kept}


def test_pairs_that_clipping_makes_equal_are_flagged(tmp_path: Path, llava: Any) -> None:
    """Both begin with 90 words; at 60 tokens nothing else of them is left, at 400 all of it is."""
    picture(tmp_path / "images/a.png")
    begin = "tree " * 90
    rows = [row("same", "What?", "a.png", chosen=begin + "no", rejected=begin + "yes"), row("other", "What?", "a.png")]
    data = TRLPreference(path=json_file(tmp_path / "set.json", rows), holdout_share=0)
    for limit, flagged in ((60, ["same"]), (400, [])):
        found = looked(data, llava, rule=Lengths(max_length=limit, on_overlong="clip"))
        assert [facts.id for facts in found.rows["train"] if "equal_when_clipped" in facts.flags] == flagged
        assert statistics(found)["train"]["length"].get("equal", 0) == len(flagged)
    _, report = fitting(data.train().examples, llava.encoder(), PREFERENCE, Lengths(max_length=60), DPO().groups)
    assert report == {"clipped": 0, "dropped": 0, "equal": 1}


def test_what_would_end_a_training_run_is_told(tmp_path: Path, llava: Any) -> None:
    rule = Lengths(max_length=40, on_overlong="error")
    found = looked(MicroWorld(size=8, test_size=8), llava, rule=rule)
    assert statistics(found)["train"]["length"] == {"refused": 8}


@pytest.mark.parametrize("name", READERS)
def test_every_reader(tmp_path: Path, llava: Any, name: str) -> None:
    """Six times the same row, of which five repeat the first."""
    picture(tmp_path / "images/a.png")
    data = READERS[name](
        path=json_file(tmp_path / "d.json", numbered(name, 6)), split=None, eval_split=None, holdout_share=0
    )
    found = looked(data, llava)
    (train,) = statistics(found).values()
    examples = data.test().examples
    assert train["instructions"] == len(found.rows["train"]) == len(examples) >= 6
    assert train["responses"] == sum(len(example.responses) for example in examples)
    assert train["images"] == len({example.images[0].key for example in examples if example.images})
    assert train["flags"]["repeated_row"] == len(examples) * 5 // 6
    assert set(train["tokens"]) == {"instruction", "conversation", "prompt", "sequence", *examples[0].responses}


def test_a_mixture_is_compared_across_its_parts(tmp_path: Path, llava: Any) -> None:
    """All rows of every part, whatever the weights say; `b` has a row of `a`, and one without its image."""
    picture(tmp_path / "images/a.png")
    one = [
        ROWS["trl"] | {"id": "1"},
        ROWS["trl"] | {"id": "2", "chosen": [{"role": "assistant", "content": "A bush."}]},
    ]
    two = [ROWS["mmsafe_po"] | {"id": 1}, ROWS["mmsafe_po"] | {"id": 2, "image": "nowhere.png"}]
    parts = {
        "a": TRLPreference(path=json_file(tmp_path / "a.json", one), holdout_share=0),
        "b": MMSafePO(path=json_file(tmp_path / "b.json", two), holdout_share=0),
    }
    found = looked(Mix(parts=parts, weights={"a": 1, "b": 9}), llava)
    (train,) = statistics(found).values()
    assert train["tags"]["source"] == {"a": 2, "b": 1}
    assert train["dropped"] == {"b: missing image": 1}
    assert train["flags"]["missing_image"] == 1
    assert {facts.id: facts.flags.get("repeated_row") for facts in found.rows["train"]} == {
        "a/1": None,
        "a/2": None,
        "b/1": "a/1",
    }


def test_named_splits_are_compared_prompts_alone_among_them(tmp_path: Path, llava: Any) -> None:
    pattern(tmp_path / "SPA-VL/images/a.png", 1)
    pair, question = ROWS["spa_vl"], {key: value for key, value in ROWS["spa_vl"].items() if key not in PAIR}
    json_file(tmp_path / "SPA-VL/train.json", [pair, pair | {"question": "Who?"}])
    json_file(tmp_path / "SPA-VL/validation.json", [pair | {"question": "When?"}])
    json_file(tmp_path / "SPA-VL/harm.json", [question | {"question": "who? "}])
    found = statistics(looked(SPAVL(path=tmp_path / "SPA-VL"), llava, ["train", "validation", "harm"]))
    assert {split: part["instructions"] for split, part in found.items()} == {"train": 2, "validation": 1, "harm": 1}
    assert found["harm"]["responses"] == 0
    assert found["harm"]["length"] == {}
    assert [part["flags"]["leaked_image"] for part in found.values()] == [2, 1, 1]
    assert [part["flags"]["leaked_instruction"] for part in found.values()] == [1, 0, 1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("data=spa_vl", "data.path=SPA-VL", "splits=[train,hram]"), "splits: "),
        (("data=trl", "data.path=SPA-VL/train.json", "splits=[train,test]"), "splits=train: no row of"),
        (("data=microworld", "splits=[train]"), "splits: only a data set that is read from files"),
        (("data=microworld", "fail_on=[leaked_images]"), "did you mean 'leaked_image'?"),
        (("data=microworld", "fail_on=[leaked_look]", "decode=false"), "fail_on=leaked_look: only decode=true"),
        (("data=trl", "data.path=nowhere.json"), "data.path=nowhere.json: no such folder or file"),
        (("data=microworld", "model=llava_hf", "model.path=nowhere"), "model.path=nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    picture(tmp_path / "SPA-VL/images/a.png")
    json_file(tmp_path / "SPA-VL/train.json", [ROWS["spa_vl"]])
    json_file(tmp_path / "SPA-VL/harm.json", [ROWS["spa_vl"]])
    ended = launch("inspect", *words, "hydra.run.dir=out", cwd=tmp_path)
    assert ended.status == 2
    (said,) = [line for line in ended.err.splitlines() if line.startswith("mmsafe.inspect:")]
    assert reason in said


def test_images_that_only_decoding_finds_damaged(pairs: Path, llava: Any) -> None:
    """Their headers are whole, so a run with `check_images=header` would keep the row."""
    data = TRLPreference(path=pairs / "set", split="train", eval_split="test", check_images="header")
    found = looked(data, llava)
    assert {facts.id for facts in found.rows["train"] if "damaged_image" in facts.flags} == {"e"}
    assert statistics(found)["train"]["flags"]["damaged_image"] == 1


def test_without_decoding_nothing_is_said_of_looks(pairs: Path) -> None:
    words = ("decode=false", "data.check_images=header", "fail_on=[over_length]", "hydra.run.dir=undecoded")
    ended = succeed("inspect", "model=random", *SETS, *words, cwd=pairs)
    (told,) = [line for line in ended.out.splitlines() if "leaked_look" in line]
    assert told.count("–") == 2, "not looked at is not none"
    assert not (pairs / "undecoded" / "figures" / "image-size.svg").exists()


def test_looks(tmp_path: Path) -> None:
    """The same picture in another size and compression is near, others are far, and plain ones are left out."""
    hashes = {}
    for number in range(4):
        with Image.open(pattern(tmp_path / f"{number}.png", number, 90)) as image:
            hashes[f"{number}"] = difference_hash(image)
            image.resize((300, 200)).save(tmp_path / f"{number}.jpg", quality=60)
    with Image.open(tmp_path / "2.jpg") as image:
        smaller = difference_hash(image)
    assert difference_hash(Image.new("RGB", (50, 50), "red")) is None
    assert smaller is not None
    known = {name: value for name, value in hashes.items() if value is not None}
    assert len(known) == 4
    assert alike({"x": smaller}, known) == {"x": "2"}
    assert alike({"2": smaller}, known) == {}, "the same bytes are not merely alike"
    assert alike({"x": smaller}, {name: value for name, value in known.items() if name != "2"}) == {}
    assert alike({"x": smaller}, {}) == {}
    ones, zero, few = bytes([255] * 16), bytes(16), NEAR // 8
    near = bytes([255] * few) + bytes(16 - few)
    assert alike({"near": near, "far": ones, "over": b"\1" + near[1:-1] + b"\xff"}, {"zero": zero}) == {"near": "zero"}


def test_prompts_without_words_are_compared_by_their_images_only(tmp_path: Path, llava: Any) -> None:
    for number, name in enumerate("ab"):
        pattern(tmp_path / f"images/{name}.png", number)
    rows = [row(name, "<image>", f"{name}.png", rejected=f"No {name}.") for name in "ab"]
    json_file(tmp_path / "train.json", rows)
    json_file(tmp_path / "test.json", [row("c", "<image>", "b.png", "Yes.")])
    found = looked(TRLPreference(path=tmp_path, split="train", eval_split="test"), llava)
    assert [facts.flags for facts in found.rows["train"]] == [{}, {"leaked_image": "holdout: c"}]


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_real_rows(tmp_path: Path, llava: Any) -> None:
    raw = json.loads(SAMPLE.read_text())
    names = sorted({entry["image"] for entry in raw})
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        pattern(tmp_path / "image.png", number).rename(tmp_path / "images" / name)
    data = MMSafePO(path=SAMPLE, image_dir=tmp_path / "images", holdout_share=0)
    (train,) = statistics(looked(data, llava)).values()
    assert (train["instructions"], train["responses"]) == (90, 180)
    assert train["images"] == len(names)
    assert train["multi_turn"] == sum(entry["question"].count("USER:") > 1 for entry in raw)
    assert sum(train["tags"]["entity_type"].values()) == 90
    assert train["flags"]["repeated_responses"] == 90 - len({(e["chosen"], e["rejected"]) for e in raw})
    assert train["flags"]["bad_row"] == 0
