"""Which files of a folder are read for a split: layouts as published, and those that are refused."""

from pathlib import Path

import pytest

from mmsafe.core.errors import UserError
from mmsafe.data.splits import files_of_split

SAVED = (  # what `save_to_disk` writes, and the cache of a `map`
    "dataset_dict.json train/data-00000-of-00002.arrow train/data-00001-of-00002.arrow train/state.json "
    "train/dataset_info.json train/cache-0123456789abcdef.arrow test/data-00000-of-00001.arrow test/state.json"
)
ALL = "all that is there"
LANGUAGES = "english/train/0000.parquet english/test/0000.parquet german/train/0000.parquet german/test/0000.parquet"
SEVERAL, FORMS = "several of split 'train': ", "one split in several forms"
SPLITS = [
    (SAVED, "train", "train/data-00000-of-00002.arrow train/data-00001-of-00002.arrow"),
    (SAVED, "test", "test/data-00000-of-00001.arrow"),
    (SAVED, None, "set data.split to one of test, train"),
    (SAVED, "tset", "data.split: .* no file for split 'tset' .did you mean 'test'.*; there are: test, train"),
    ("train/data.parquet test/data.parquet", "train", "train/data.parquet"),
    ("train/data.parquet test/data.parquet", None, "set data.split to one of test, train"),
    ("harm/rows.jsonl help/rows.jsonl", "harm", "harm/rows.jsonl"),
    ("default/train/0000.parquet default/train/0001.parquet default/test/0.parquet", "test", "default/test/0.parquet"),
    ("default/train/0000.parquet", None, ALL),
    ("train-00000-of-00002-0123456789abcdef.parquet train-00001-of-00002-fedcba9876543210.parquet", "train", ALL),
    ("train-00001-of-00002.parquet train-00002-of-00002.parquet", "train", ALL),
    ("train/part-00000-ab-c000.parquet train/part-00001-ab-c000.parquet", "train", ALL),
    (LANGUAGES, "train", f"{SEVERAL}english/train/0000.parquet, german/train/0000.parquet; set data.path to"),
    (LANGUAGES, None, "holds several sets of files: english/test/0000.parquet, english/train/0000.parquet, german"),
    ("english/train.parquet german/train.parquet", "train", f"{SEVERAL}english/train.parquet, german/train"),
    ("english/train.parquet german/train.parquet", None, "set data.split to one of english, german"),
    ("train/english.parquet train/german.parquet", "train", f"{SEVERAL}train/english.parquet, train/german"),
    ("train/data.parquet more/train.parquet", "train", f"{SEVERAL}more/train.parquet, train/data.parquet"),
    ("a/train.jsonl b/train.jsonl", "train", f"{SEVERAL}a/train.jsonl, b/train.jsonl"),
    ("train.jsonl parts/train.jsonl", "train", "train.jsonl"),
    ("train.jsonl .cache/train.jsonl .git/train.jsonl __MACOSX/train.jsonl ._train.jsonl", None, "train.jsonl"),
    ("train-00000-of-00003.parquet train-00002-of-00003.parquet", "train", "2 of the 3 files .* and not number 1; get"),
    ("train-00003-of-00002.parquet train-00004-of-00002.parquet", "train", "2 of the 2 files .* and not number 1; get"),
    ("train-00000-of-999999999.jsonl", None, "1 of the 999999999 files"),
    ("train.parquet train-00000-of-00001.parquet", "train", f"{FORMS}: train-00000-of-00001.parquet, train.p"),
    ("train-00000-of-00001-a.parquet train-00000-of-00001-b.parquet", "train", FORMS),
    ("train-1.jsonl train_1.jsonl", "train", FORMS),
    ("train-0.jsonl train-2.jsonl", "train", "holds train-0.jsonl and train-2.jsonl, and not number 1: get what"),
    ("2023.jsonl 2024.jsonl", None, "holds 2023.jsonl and 2024.jsonl, and not number 1: .* name one file if they are"),
    ("train.jsonl test.parquet", None, "set data.split to one of test, train"),
    ("train.jsonl test.parquet about.json", "train", "train.jsonl"),
    ("train.json data/train-00000-of-00001.parquet", None, "data/train-00000-of-00001.parquet"),
    ("train.json train.jsonl", "train", f"{FORMS}: train.json, train.jsonl"),
]


@pytest.mark.parametrize(("files", "split", "expected"), SPLITS)
def test_the_files_of_a_split(tmp_path: Path, files: str, split: str | None, expected: str) -> None:
    """`expected` is what is read, or what the refusal says."""
    for name in files.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    read = (files if expected is ALL else expected).split()
    if set(read) <= set(files.split()):
        assert files_of_split(tmp_path, "data.path", split) == [tmp_path / name for name in read]
        return
    with pytest.raises(UserError, match=expected) as caught:
        files_of_split(tmp_path, "data.path", split)
    assert "\n" not in str(caught.value)


def test_a_linked_folder_is_a_split_like_others_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "set/test").mkdir(parents=True)
    (tmp_path / "set/test/data.parquet").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data.parquet").touch()
    (tmp_path / "set/train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/test/again").symlink_to(tmp_path / "set")
    with pytest.raises(UserError, match=r"set data\.split to one of test, train"):
        files_of_split(tmp_path / "set", "data.path", None)
