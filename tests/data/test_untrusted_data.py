"""Data files are strangers': whatever they hold ends in examples, counted rows or one line, inside their folder."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from any_rows import ANY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reader_rows import READERS, ROWS, json_file, parquet, picture

from mmsafe.core import progress
from mmsafe.core.errors import UserError
from mmsafe.data import images, records
from mmsafe.data.example import fingerprint
from mmsafe.data.images import FileImage

MANY_EXAMPLES = ("vlguard", "llava_instruct")  # of a row
WITH_IMAGES = [name for name in READERS if name != "hh_text"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`data/images/a.png`, and beside the folder what no name may lead to."""
    picture(tmp_path / "secret.png")
    picture(tmp_path / "data/images/a.png")
    (tmp_path / "data/images/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data/images/out").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "data/images/pipe.png")
    return tmp_path / "data"


def with_image(name: str, image: Any) -> dict[str, Any]:
    return ROWS[name] | ({"images": [image]} if name in ("trl", "trl_sft") else {"image": image})


def read(name: str, path: Path, **options: Any) -> Any:
    return READERS[name](path=path, on_bad="skip", **options).test()


def error_of(name: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        READERS[name](path=path).test()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Names of images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image", ["../../secret.png", "{root}/secret.png", "link.png", "out/secret.png", "..%2F..%2Fsecret.png"]
)
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_no_name_leads_out_of_the_folder(folder: Path, name: str, image: str) -> None:
    rows = [ROWS[name], with_image(name, image.format(root=folder.parent)) | {"id": "bad"}]
    path = json_file(folder / "d.json", rows)
    assert f"{path}: row 2 (id 'bad'): image " in error_of(name, path)
    assert "out of the image folder" in error_of(name, path)
    assert read(name, path).dropped == {"missing image": 1}


@pytest.mark.parametrize("image", ["pipe.png", "a\0.png", "images", "", "x" * 5000, "."])
@pytest.mark.parametrize("name", ["spa_vl", "trl", "vlguard"])
def test_names_of_nothing(folder: Path, name: str, image: str) -> None:
    path = json_file(folder / "d.json", [ROWS[name], with_image(name, image) | {"id": "bad"}])
    assert f"{path}: row 2 (id 'bad'): " in error_of(name, path)
    assert sum(read(name, path).dropped.values()) == 1


def test_a_table_cannot_name_a_file_outside_either(folder: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    inside = [{"bytes": None, "path": name} for name in ("a.png", str(folder.parent / "secret.png"), "link.png")]
    inside.append({"bytes": b"", "path": None})
    row = {name: [value] * 4 for name, value in ROWS["spa_vl"].items() if name != "image"}
    pq.write_table(pa.table(row | {"image": pa.array(inside, kind)}), folder / "d.parquet")
    loaded = read("spa_vl", folder / "d.parquet")
    assert loaded.dropped == {"missing image": 3}
    assert [e.images[0].name for e in loaded.examples] == [str(folder / "images/a.png")]


@pytest.mark.parametrize("name", ["spa_vl", "trl"])
def test_an_image_in_place_of_its_name_is_told_in_a_line_that_a_terminal_can_show(folder: Path, name: str) -> None:
    for image in ("/9j/4AAQSkZJRg" + "Ab/+" * 400_000, "data:image/png;base64," + "Ab/+" * 400_000):
        path = json_file(folder / "d.json", [ROWS[name], with_image(name, image) | {"id": "bad"}])
        error = error_of(name, path)
        assert f"{path}: row 2 (id 'bad'): " in error
        assert "is the image itself, as " in error
        assert len(error) < 900
        assert sum(read(name, path).dropped.values()) == 1


def test_whatever_a_file_calls_things_a_message_stays_short(folder: Path) -> None:
    path = json_file(folder / "d.json", {"k" * 100_000: "none.json"})
    error = error_of("mmsafe_po", path)
    assert len(error) < 1000
    assert error.endswith("none.json: No such file or directory")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "d.json: is a Git LFS pointer, not the file itself" in error_of("mmsafe_po", path)
    path.rename(folder / "d.parquet")
    assert "d.parquet: is a Git LFS pointer, not the file itself" in error_of("spa_vl", folder / "d.parquet")


# --- What images are ---------------------------------------------------------------------------------------------

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def test_decompression_bombs_in_files_and_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(folder / "images/b.png")
    bomb = (folder / "images/b.png").read_bytes()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    files = json_file(folder / "d.json", [ROWS["spa_vl"], ROWS["spa_vl"] | {"image": "b.png"}])
    good = (folder / "images/a.png").read_bytes()
    table = parquet(folder / "d.parquet", [ROWS["spa_vl"] | {"image": data} for data in (good, bomb)])
    for path in (files, table):
        assert "the image is too large to decode" in error_of("spa_vl", path)
        assert read("spa_vl", path, check_images="header").dropped == {"damaged image": 1}


def test_giant_files_under_names_of_images(folder: Path) -> None:
    with (folder / "images/b.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # takes no room on the disk
    path = json_file(folder / "d.json", [ROWS["spa_vl"], ROWS["spa_vl"] | {"image": "b.png"}])
    assert "b.png: has 256 MiB, too many for an image" in error_of("spa_vl", path)


def test_a_row_whose_examples_share_a_damaged_image_counts_once(folder: Path) -> None:
    (folder / "images/b.png").write_bytes(SVG)
    path = json_file(folder / "d.json", [ROWS["vlguard"], ROWS["vlguard"] | {"id": "8", "image": "b.png"}])
    assert read("vlguard", path).dropped == {"damaged image": 1}


# --- Texts and files ---------------------------------------------------------------------------------------------

FIELDS = {
    "spa_vl": "question",
    "beavertails_v": "response_1",
    "rlaif_v": "chosen",
    "hh_text": "rejected",
    "trl": "chosen",
}


@pytest.mark.parametrize(
    ("text", "reason"), [("a" * 2_000_000, "too long"), ("a\0b", "broken text"), ("\ud800", "broken text")]
)
@pytest.mark.parametrize(("name", "field"), FIELDS.items())
def test_texts_that_no_model_should_be_shown(folder: Path, name: str, field: str, text: str, reason: str) -> None:
    path = json_file(folder / "d.json", [ROWS[name], ROWS[name] | {field: text}])
    error = error_of(name, path)
    assert f"{path}: row 2: '{field}' h" in error
    assert len(error) < 400
    assert read(name, path).dropped == {reason: 1}


def test_tables_with_broken_utf8(folder: Path) -> None:
    data = (folder / "images/a.png").read_bytes()
    path = parquet(folder / "d.parquet", [ROWS["spa_vl"] | {"image": data, "question": f"number{i}"} for i in range(5)])
    table = pq.read_table(path)
    texts = pa.array([b"one", b"\xff\xfe", b"three", b"four", b"\xc3"]).cast(pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("question"), "question", texts), path)
    assert f"{path}: row 2: holds text that is not UTF-8" in error_of("spa_vl", path)
    loaded = read("spa_vl", path)
    assert loaded.dropped == {"broken text": 2}
    assert [example.id for example in loaded.examples] == ["1", "3", "4"]


@pytest.mark.parametrize("cut", [0, 7, 400, -60])
def test_broken_tables(folder: Path, cut: int) -> None:
    path = parquet(folder / "d.parquet", [ROWS["spa_vl"] | {"image": b"x"}])
    path.write_bytes(path.read_bytes()[:cut])
    assert "d.parquet: cannot be read as parquet" in error_of("spa_vl", path)


def test_packed_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    path = folder / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b"[]\n" + b" " * 5000))
    assert "d.jsonl.gz: line 2 has more than 0 MiB" in error_of("hh_text", path)
    path.write_bytes(gzip.compress(b"[]\n" * 50)[:-12])
    assert "data.path: cannot read" in error_of("hh_text", path)
    path.write_bytes(b"[]")
    assert "data.path: cannot read" in error_of("hh_text", path)


def test_json_too_large_to_read_as_a_whole(folder: Path) -> None:
    with (folder / "d.json").open("wb") as file:
        file.truncate(records.MAX_JSON + 2**30)
    assert "d.json: has 5 GiB, too much for one JSON text" in error_of("hh_text", folder / "d.json")


@pytest.mark.parametrize("name", READERS)
def test_deep_nesting(folder: Path, name: str) -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    rows = [ROWS[name], *[ROWS[name] | {"id": "bad", field: deep} for field in ROWS[name]]]
    loaded = read(name, json_file(folder / "d.json", rows))
    assert loaded.examples
    (folder / "e.jsonl").write_text("[" * 100_000)
    assert "cannot be read as JSON" in error_of(name, folder / "e.jsonl")


# --- Anything at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), on_bad=st.sampled_from(["error", "skip"]), split=st.sampled_from([None, None, "train"]))
def test_anything_ends_in_examples_or_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject, on_bad: Any, split: str | None
) -> None:
    monkeypatch.setattr(progress, "is_first", lambda: False)  # 2,000 bars take longer than the reading
    found = data.draw(ANY[name])
    lines = folder / "d.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in found))
    source = READERS[name](path=lines, on_bad=on_bad, split=split, check_images="header")
    examples, message = [], "read"
    try:
        examples, dropped = (loaded := source.test()).examples, loaded.dropped
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert bool(examples) == (message == "read")
    if examples and split is None and name not in MANY_EXAMPLES:
        assert len(examples) + sum(dropped.values()) == len(found)
    for example in examples:
        assert all(isinstance(image, FileImage) for image in example.images)
        assert not example.images or Path(os.path.realpath(example.images[0].path)).is_relative_to(folder / "images")
    fingerprint(examples)
