import contextlib
import csv
import io
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import mmsafe
from mmsafe.core.errors import UserError
from mmsafe.core.files import csv_rows, csv_text, read_metrics
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.sweeps.board import last_row


def text(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


def steps(folder: Path) -> list[float]:
    return [row["step"] for row in read_metrics(folder / "metrics.csv")]


def logged(folder: Path, *numbers: int) -> CsvLog:
    """One process that logs these steps."""
    log = CsvLog(folder)
    for number in numbers:
        log.log_metrics({"loss": float(number)}, step=number)
    return log


def test_columns_are_in_the_order_first_seen(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "new" / "folder")
    log.log_metrics({"z": 1.5, "a": 2}, step=1)
    log.log_metrics({"a": 3.0, "m": 0.1}, step=2)
    log.log_metrics({"z": 4.0}, step=3)
    assert text(tmp_path / "new" / "folder") == "step,z,a,m\n1,1.5,2.0,\n2,,3.0,0.1\n3,4.0,,\n"
    assert read_metrics(log.path)[1] == {"step": 2, "a": 3.0, "m": 0.1}


def test_each_call_is_on_disk_and_only_a_new_column_replaces_the_file(tmp_path: Path) -> None:
    log, files = CsvLog(tmp_path), set()
    for number in range(1, 4):
        log.log_metrics({"loss": 1.0}, step=number)
        assert steps(tmp_path) == list(range(1, number + 1))
        files.add(log.path.stat().st_ino)
    with log.path.open():  # or its number could be given to the new file
        log.log_metrics({"more": 1.0}, step=4)
        assert {log.path.stat().st_ino} != files
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_calls_with_one_step_share_its_row(tmp_path: Path) -> None:
    log = logged(tmp_path, 1, 2)
    log.log_metrics({"eval/unsafe": 0.25}, step=2)
    log.log_metrics({"eval/refused": 0.5})
    assert read_metrics(log.path)[1] == {"step": 2, "loss": 2.0, "eval/unsafe": 0.25, "eval/refused": 0.5}
    log.log_metrics({"eval/unsafe": 0.75}, step=1)
    assert [row.get("eval/unsafe") for row in read_metrics(log.path)] == [0.75, 0.25]


def test_what_is_no_python_number_is_one_or_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": torch.tensor(0.5), "e": np.int64(3)}, step=1)
    with pytest.raises(ValueError, match="could not convert"):
        log.log_metrics({"new": 1.0, "a": "high"}, step=2)
    assert text(tmp_path) == "step,a,b,c,d,e\n1,nan,inf,-inf,0.5,3.0\n"
    assert math.isnan(read_metrics(log.path)[0]["a"])


@pytest.mark.parametrize("name", ["step", "", "two\nlines", "\r", "a\u2028b"])
def test_a_name_that_the_file_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="a metric cannot be called"):
        CsvLog(tmp_path).log_metrics({name: 1.0}, step=2)
    assert not list(tmp_path.iterdir())


RUN = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", '"=1', "'=1", "''-1", "＝1", "\tx")
CELLS = (*RUN, "a=1", "-0.5", "-inf", "x", "x\r=1")
"""What a spreadsheet would run, and what it would not."""


def test_what_a_spreadsheet_would_run_is_text_in_the_file_and_comes_back_as_it_was() -> None:
    written = list(csv.reader(io.StringIO(csv_text([CELLS, [-0.5, 3, None, Path("=x")]]), newline="")))
    assert written == [[f"'{cell}" if cell in RUN else cell for cell in CELLS], ["-0.5", "3", "", "'=x"]]
    assert list(csv_rows(io.StringIO(csv_text([CELLS]), newline=""))) == [list(CELLS)]


@example(["'\r"])
@given(st.lists(st.text(st.sampled_from("=+-@\t\r\n '\",;1.e٣x"), min_size=1), min_size=1, max_size=4))
def test_any_cells_come_back(cells: list[str]) -> None:
    text = csv_text([cells])
    assert list(csv_rows(io.StringIO(text, newline=""))) == [cells]
    for cell in next(csv.reader(io.StringIO(text, newline=""))):
        with contextlib.suppress(ValueError):
            float(cell)
            continue
        assert cell[0] not in "=+-@\t\r\n"


def test_a_metric_that_is_called_like_a_formula_is_read_back(tmp_path: Path) -> None:
    logged(tmp_path, 1)
    log = CsvLog(tmp_path)
    log.log_metrics({"=1+1": -0.5}, step=2)
    assert text(tmp_path) == "step,loss,'=1+1\n1,1.0,\n2,,-0.5\n"
    assert read_metrics(tmp_path / "metrics.csv")[1] == last_row(tmp_path / "metrics.csv") == {"step": 2, "=1+1": -0.5}


def test_every_table_is_written_by_the_one_writer() -> None:
    files = Path(mmsafe.__file__).parent.rglob("*.py")
    assert [file.name for file in files if re.search(r"csv\.(Dict)?[wW]riter|to_csv", file.read_text())] == ["files.py"]


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logged(tmp_path, 1).log_hyperparams({"a": 1})
    assert not list(tmp_path.iterdir())


def test_making_a_logger_changes_nothing_and_its_first_call_drops_later_rows(tmp_path: Path) -> None:
    logged(tmp_path, 1, 2, 3, 4, 5)
    second = CsvLog(tmp_path)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    second.log_metrics({"loss": 30.0}, step=3)
    assert text(tmp_path) == "step,loss\n1,1.0\n2,2.0\n3,30.0\n"


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"step,a\n1,2,3\n", b"step,a\nx,2\n", b"step,a\n1,x\n", b"\xff\n"])
def test_a_file_of_another_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv: was not written by mmsafe"):
        logged(tmp_path, 1)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_no_file_and_an_empty_file_have_no_rows(tmp_path: Path) -> None:
    assert steps(tmp_path) == []
    (tmp_path / "metrics.csv").touch()
    assert steps(tmp_path) == []
    logged(tmp_path, 1)
    assert steps(tmp_path) == [1]


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
names = st.sampled_from(["loss", "a,b", 'quo"te']) | anything.filter(
    lambda name: name.splitlines() == [name] != ["step"]
)
metrics = st.dictionaries(names, st.floats(), max_size=4)
calls = st.lists(st.tuples(st.integers(0, 12), metrics), min_size=1, max_size=8)
kills = st.integers(0, 60)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(calls, kills), min_size=1, max_size=4))
def test_any_calls_in_processes_that_are_killed(processes: list[tuple[Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metrics.csv"
        expected: dict[int, dict[str, float]] = {}
        for logs, cut in processes:
            expected = {step: row for step, row in expected.items() if step <= logs[0][0]}
            log = CsvLog(Path(name))
            for step, values in logs:
                log.log_metrics(values, step=step)
                expected[step] = expected.get(step, {}) | values
            assert_same(read_metrics(log.path), expected)
            whole = path.read_bytes()
            header = whole.index(b"\n") + 1
            path.write_bytes(whole[: max(header, len(whole) - cut)])
            complete = path.read_bytes()[header:].count(b"\n")
            expected = {step: expected[step] for step in sorted(expected)[:complete]}
            assert_same(read_metrics(path), expected)


def assert_same(found: list[dict[str, float]], expected: dict[int, dict[str, float]]) -> None:
    rows = [{"step": step, **expected[step]} for step in sorted(expected)]
    assert [{name: repr(value) for name, value in row.items()} for row in found] == [
        {name: repr(value) for name, value in row.items()} for row in rows
    ]


class Model(pl.LightningModule):
    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.stop_after = stop_after

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if self.global_step == self.stop_after:
            raise RuntimeError("interrupted")
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        for logger in self.loggers:
            logger.log_metrics({"own": float(self.global_step)}, step=self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, stop_after: int | None = None) -> None:
    checkpoints = folder / "checkpoints"
    saving = ModelCheckpoint(checkpoints, every_n_train_steps=2, save_last=True, enable_version_counter=False)
    last = checkpoints / "last.ckpt"
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_steps=6,
        logger=CsvLog(folder),
        callbacks=[saving],
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(torch.ones(6, 1), batch_size=1)
    trainer.fit(Model(stop_after), data, ckpt_path=last if last.exists() else None)


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_run_ends_with_the_file_of_an_uninterrupted_one(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path / "cut", stop_after=5)
    assert 5 in steps(tmp_path / "cut")
    fit(tmp_path / "cut")
    assert text(tmp_path / "cut") == text(tmp_path / "whole")
    own = [row["own"] for row in read_metrics(tmp_path / "whole" / "metrics.csv") if "own" in row]
    assert own == [1, 2, 3, 4, 5, 6]
