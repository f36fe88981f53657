"""What is on the disk after something went wrong in between: files, run folders, the cache."""

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


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("call", "fault", "error"),
    [
        *((call, full, UserError) for call in ("fsync", "replace", "chmod")),
        ("replace", stop, KeyboardInterrupt),
        ("", full, UnicodeEncodeError),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    call: str, fault: Any, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    assert path.stat().st_mode & 0o444 == 0o444, "others can read it"
    if call:
        monkeypatch.setattr(os, call, fault)
    with pytest.raises(error):
        write_atomically(path, "new" if call else "half a pair: \ud800")
    assert json.loads(path.read_text()) == {"old": 1}
    assert names(tmp_path) == ["metrics.json"]


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path):
    path, rows = tmp_path / "rows.jsonl", [{"id": "1", "text": "ü\n\u2028"}, {"id": "2", "text": ""}]
    write_rows(path, rows)
    with pytest.raises(TypeError):
        write_rows(path, [{"id": "3"}, {"id": object()}])
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == rows
    write_rows(path, [])
    assert path.read_text() == ""


def config(**options: Any) -> DictConfig:
    return OmegaConf.create({"seed": 0, "objective": {"beta": 0.1, "mode": "joint"}, "hydra": {"job": 1}, **options})


def test_a_folder_belongs_to_its_first_config(tmp_path: Path):
    RunFolder(tmp_path, config(extra={"a": 1})).claim()
    RunFolder(tmp_path, config(extra={"a": 1}, hydra={"job": 2})).claim()  # what Hydra is told makes no other run
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path, config(seed=1, objective={"beta": 0.2, "mode": "joint"})).claim()
    message = str(caught.value)
    assert "(extra, objective.beta, seed)" in message, "an option that is gone is named too"
    assert f"{tmp_path}: holds a run with another config" in message
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
    with pytest.raises(UserError, match=r"choose another folder or delete it$"):
        RunFolder(tmp_path, config(seed=1)).claim()
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "run.json").unlink()
    assert RunFolder(tmp_path, config(seed=1)).claim() is None


def test_notes_add_up_are_on_disk_at_once_and_stay_and_inputs_must_be_the_same(tmp_path: Path):
    folder = RunFolder(tmp_path, config())
    folder.claim()
    folder.note_inputs(data="abc")
    folder.note(examples=3)
    again = RunFolder(tmp_path, config())
    again.claim()
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["data"], about["examples"]) == ("abc", 3)
    assert about["config"] == {"seed": 0, "objective": {"beta": 0.1, "mode": "joint"}}
    assert {"versions", "hardware", "git_commit", "python", "mmsafe", "command"} <= set(about)
    again.note_inputs(data="abc")
    with pytest.raises(UserError, match="the data changed since this run began"):
        again.note_inputs(data="other")


def test_finished_is_what_has_metrics_and_they_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = RunFolder(tmp_path, config())
    assert folder.claim() is None
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        folder.finish({"train/loss": 1.5})
    assert names(tmp_path) == ["run.json"]
    monkeypatch.undo()
    assert folder.claim() is None
    folder.finish({"train/loss": 1.5, "eval/judge": "rules"})
    assert RunFolder(tmp_path, config()).claim() == {"train/loss": 1.5, "eval/judge": "rules"}
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["eval/judge", "train/loss"]


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
    assert (names(tmp_path), names(tmp_path / "model")) == (["model"], ["config", "weights"])
    assert (tmp_path / "model" / "weights").read_text() == "new"


def fill(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "weights").write_text(text)


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
    results.put((cached_folder("models", "key", make_slowly) / "weights").read_text())


def test_processes_that_need_the_same_folder_make_it_once(own_cache: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=ask, args=(results,)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=30) for _ in processes] == ["whole"] * 4
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len((own_cache / "models" / "makers").read_text().splitlines()) == 1
