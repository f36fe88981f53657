"""What is on the disk after something went wrong in between: files, run folders, the cache."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mmsafe.core.cache import cache_dir, cached_folder
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically, write_json, write_rows
from mmsafe.runs.run_folder import RunFolder


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="No space left"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert names(tmp_path) == ["metrics.json"]


def test_an_interrupt_between_writing_and_renaming_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "deep" / "x", "text")
    assert names(tmp_path / "deep") == []


def test_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path):
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "x", "half a pair: \ud800")
    assert names(tmp_path) == []


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"id": "1", "text": "ü\n\u2028"}, {"id": "2", "text": ""}])
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == [
        {"id": "1", "text": "ü\n\u2028"},
        {"id": "2", "text": ""},
    ]
    with pytest.raises(TypeError):
        write_rows(path, [{"id": "3"}, {"id": object()}])
    assert len(path.read_text().split("\n")) == 3
    write_rows(path, [])
    assert path.read_text() == ""


def test_a_written_file_can_be_read_by_others(tmp_path: Path):
    write_atomically(tmp_path / "x", "text")
    assert (tmp_path / "x").stat().st_mode & 0o444 == 0o444


def config(**options: Any) -> DictConfig:
    return OmegaConf.create({"seed": 0, "objective": {"beta": 0.1, "mode": "joint"}, "hydra": {"job": 1}, **options})


def test_a_folder_belongs_to_its_first_config(tmp_path: Path):
    first = RunFolder(tmp_path, config())
    first.claim()
    RunFolder(tmp_path, config(hydra={"job": 2})).claim()  # what Hydra itself is told makes no other run
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path, config(seed=1, objective={"beta": 0.2, "mode": "joint"})).claim()
    message = str(caught.value)
    assert "(objective.beta, seed)" in message
    assert str(tmp_path) in message
    assert "choose another folder or delete it" in message
    assert (tmp_path / "run.json").read_text() == before


def test_a_run_that_made_nothing_says_which_one_file_to_delete(tmp_path: Path):
    """It failed before its first step, because weights were missing, say; later there would be something to lose."""
    RunFolder(tmp_path, config()).claim()
    (tmp_path / ".hydra").mkdir()
    for name in ("train.log", "console.log", "failed.json", ".lock"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"made nothing yet, so deleting {tmp_path / 'run.json'} is enough"):
        RunFolder(tmp_path, config(seed=1)).claim()
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(UserError) as refused:
        RunFolder(tmp_path, config(seed=1)).claim()
    assert str(refused.value).endswith("choose another folder or delete it")
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "run.json").unlink()
    assert RunFolder(tmp_path, config(seed=1)).claim() is None


def test_an_option_that_is_new_or_gone_is_named(tmp_path: Path):
    RunFolder(tmp_path, config(extra={"a": 1})).claim()
    with pytest.raises(UserError, match=r"\(extra\)"):
        RunFolder(tmp_path, config()).claim()


def test_notes_add_up_and_are_on_disk_at_once(tmp_path: Path):
    folder = RunFolder(tmp_path, config())
    folder.claim()
    folder.note(data="abc")
    folder.note(examples=3)
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["data"], about["examples"]) == ("abc", 3)
    assert about["config"] == {"seed": 0, "objective": {"beta": 0.1, "mode": "joint"}}
    assert {"versions", "hardware", "git_commit", "python", "mmsafe", "command"} <= set(about)


def test_claiming_a_folder_again_keeps_what_was_noted_there(tmp_path: Path):
    folder = RunFolder(tmp_path, config())
    folder.claim()
    folder.note(data="abc")
    RunFolder(tmp_path, config()).claim()
    assert json.loads((tmp_path / "run.json").read_text()).get("data") == "abc"


def test_finished_is_what_has_metrics_and_they_are_sorted(tmp_path: Path):
    folder = RunFolder(tmp_path, config())
    assert folder.claim() is None
    assert folder.claim() is None
    folder.finish({"train/loss": 1.5, "eval/judge": "rules"})
    assert RunFolder(tmp_path, config()).claim() == {"train/loss": 1.5, "eval/judge": "rules"}
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["eval/judge", "train/loss"]


def test_metrics_that_cannot_be_written_leave_the_run_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path, config())
    folder.claim()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        folder.finish({"train/loss": 1.5})
    assert names(tmp_path) == ["run.json"]
    monkeypatch.undo()
    assert RunFolder(tmp_path, config()).claim() is None


class Savable:
    """Stands for a model: writes two files and fails in between if told to."""

    def __init__(self, text: str, fails: bool = False) -> None:
        self.text, self.fails = text, fails

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text(self.text)
        if self.fails:
            full()
        (folder / "config").write_text(self.text)


def test_a_model_is_there_as_a_whole_or_as_it_was(tmp_path: Path):
    folder = RunFolder(tmp_path, config())
    assert folder.save_model(Savable("old")) == tmp_path / "model"
    with pytest.raises(UserError, match="No space left"):
        folder.save_model(Savable("half", fails=True))
    assert (tmp_path / "model" / "weights").read_text() == "old"
    folder.save_model(Savable("new"))
    assert names(tmp_path / "model") == ["config", "weights"]
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert names(tmp_path) == ["model"]


def fill(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return make


def test_the_cache_is_where_the_user_says(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_dir("models") == own_cache / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MMSAFE_CACHE", "~/mine")
    assert cache_dir("models") == tmp_path / "mine" / "models"
    monkeypatch.delenv("MMSAFE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir("models").name == "models"


def test_a_cached_folder_is_made_once(own_cache: Path):
    made = cached_folder("models", "key", fill("first"))
    assert cached_folder("models", "key", fill("second")) == made == own_cache / "models" / "key"
    assert (made / "weights").read_text() == "first"
    assert (cached_folder("models", "other", fill("second")) / "weights").read_text() == "second"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_in_between_leaves_nothing_and_can_be_repeated(error: type[BaseException], own_cache: Path):
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        cached_folder("models", "key", fails)
    assert [path for path in (own_cache / "models").iterdir() if path.is_dir()] == []
    assert names(cached_folder("models", "key", fill("whole"))) == ["weights"]


def make_slowly(folder: Path) -> None:
    with (folder.parent / "makers").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.2)
    (folder / "weights").write_text("whole")


def ask(results: Any) -> None:
    folder = cached_folder("models", "key", make_slowly)
    results.put((folder / "weights").read_text())


def test_processes_that_need_the_same_folder_make_it_once(own_cache: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=ask, args=(results,)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert found == ["whole"] * 4
    assert len((own_cache / "models" / "makers").read_text().splitlines()) == 1


def test_a_run_is_not_continued_on_other_data(tmp_path: Path):
    begun = RunFolder(tmp_path / "run", config(seed=1))
    begun.claim()
    begun.note_inputs(data="first")
    again = RunFolder(tmp_path / "run", config(seed=1))
    again.claim()
    again.note_inputs(data="first")
    with pytest.raises(UserError, match="the data changed since this run began"):
        again.note_inputs(data="second")
