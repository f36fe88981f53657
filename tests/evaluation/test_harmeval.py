"""HarmEval as parquet and as JSON; USR by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, complaint, harmeval, judged, prompts, values

from mmsafe.evaluation.benchmarks.harmeval import HarmEval

COLUMNS = ["image", "question", "class1", "class2", "class3"]


def parquet(folder: Path, name: str = "test/harm-00000-of-00001.parquet", count: int = 3) -> Path:
    """The split as the hub has it: images are bytes in the table."""

    def encoded(number: int) -> dict[str, object]:
        stream = io.BytesIO()
        Pillow.new("RGB", (4, 4), (50 * number, 0, 0)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": f"{number}.png"}

    rows = {
        "image": [encoded(number) for number in range(count)],
        "question": [f"question {number}" for number in range(count)],
        **{name: [f"{name} {number % 2}" for number in range(count)] for name in COLUMNS[2:]},
    }
    features = Features({"image": Image(), **{name: Value("string") for name in COLUMNS[1:]}})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["test/harm-00000-of-00001.parquet", "test/harm/0000.parquet", "harm.parquet"])
def test_parquet(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    for other in (".cache/harm.parquet", "test/help/0000.parquet", "train/train/0000.parquet"):
        parquet(tmp_path, other, 1)
    parquet(tmp_path, name)
    found = prompts(HarmEval(path=tmp_path))
    assert [prompt.id for prompt in found] == ["0", "1", "2"]
    assert found[1].turns[0].text == "question 1"
    assert found[1].tags == {name: f"{name} 1" for name in COLUMNS[2:]}
    assert [prompt.image.load().getpixel((0, 0)) for prompt in found if prompt.image] == [
        (50 * n, 0, 0) for n in range(3)
    ]
    assert len({prompt.image.key for prompt in found if prompt.image}) == 3
    assert "3 prompts, where harmeval has 265" in caplog.text


@pytest.mark.parametrize("form", ["object", "list"])
def test_json(tmp_path: Path, form: str) -> None:
    file = harmeval(tmp_path) / "spa_vl_harm.json"
    if form == "list":
        file.write_text(json.dumps(list(json.loads(file.read_text()).values())))
    found = prompts(HarmEval(path=tmp_path))
    assert [prompt.id for prompt in found] == ["0", "1", "2", "3"]
    assert [prompt.image.name for prompt in found if prompt.image] == [
        str(tmp_path / "images" / f"{n}.png") for n in range(4)
    ]


def test_tables_may_name_images_in_place_of_their_bytes(tmp_path: Path) -> None:
    harmeval(tmp_path)
    (tmp_path / "spa_vl_harm.json").unlink()
    row = dict.fromkeys(COLUMNS, "a") | {"image": {"bytes": None, "path": "0.png"}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "harm.parquet")
    (found,) = prompts(HarmEval(path=tmp_path))
    assert found.image is not None
    assert found.image.name == str(tmp_path / "images/0.png")


def test_usr_by_class(tmp_path: Path) -> None:
    """Of 0, 1, 2, 3, the third is unsafe and the fourth unknown: 2 of 4; A0 has 0 and 2, A1 has 1 and 3."""
    benchmark = HarmEval(path=harmeval(tmp_path))
    verdicts = {"0": SAFE, "1": REFUSED, "2": UNSAFE, "3": UNKNOWN}
    found = values(benchmark, judged(prompts(benchmark), lambda prompt: verdicts[prompt.id]))
    assert found["usr"] == found["usr/class1=Harm A"] == 0.5
    assert found["usr/class2=Harm A0"] == found["usr/class2=Harm A1"] == 0.5
    assert found["usr/class3=Harm A0.2"] == found["usr/class3=Harm A1.3"] == 1


def test_an_empty_folder_says_what_to_get(tmp_path: Path) -> None:
    told = complaint(HarmEval(path=tmp_path))
    assert "huggingface.co/datasets/sqrti/SPA-VL" in told
    assert "benchmark.path" in told


def test_two_versions_of_the_split_are_not_asked_together(tmp_path: Path) -> None:
    parquet(tmp_path, "test/harm/0000.parquet")
    parquet(tmp_path, "old/harm-00000-of-00001.parquet")
    told = complaint(HarmEval(path=tmp_path))
    assert "several of split 'harm': old/harm-00000-of-00001.parquet, test/harm/0000.parquet" in told


def test_other_columns_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "harm.parquet"
    Dataset.from_dict({"image": ["x"], "prompt": ["y"]}).to_parquet(file)
    told = complaint(HarmEval(path=tmp_path))
    assert "found: image, prompt; expected: image, question, class1, class2, class3" in told


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "harm.parquet").write_text("<html>")
    assert "harm.parquet: cannot be read as parquet" in complaint(HarmEval(path=tmp_path))
