"""How commands end where their place is at fault, nobody reads what they say, or a signal asks: no traceback."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from judged_runs import REFUSED, SAFE, RunWriter, write_data
from launching import Ended, launch, refuse

from mmsafe.core.endings import ended_at_once
from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs import app
from mmsafe.sweeps.job import Job
from mmsafe.sweeps.results import recorded

EVALUATE = ("evaluate", "model=random", "benchmark.size=8", "benchmark.neutral_size=2", "hydra.run.dir=run")


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [("train --help", ""), ("train --cfg all", "1"), ("samples --help", "1"), ("cli --help", "")],
)
def test_a_reader_that_has_gone_ends_a_command_without_a_word(words: str, unbuffered: str, tmp_path: Path):
    name, *rest = words.split()
    script = f"from mmsafe.{name} import main; main()"
    read, write = os.pipe()
    os.close(read)
    command, environment = [sys.executable, "-c", script, *rest], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        *((EVALUATE, folder) for folder in ("file", "file/run", "/proc/run", "/dev/null/run")),
        (("compare", "a=file", "b=file", ""), "file/run"),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_one_line(folder: str, command: tuple[str, ...], tmp_path: Path):
    (tmp_path / "file").touch()
    assert "choose another place" in refuse(*command[:-1], f"hydra.run.dir={folder}", cwd=tmp_path)


@pytest.mark.parametrize("size", [0, 300])
def test_a_disk_that_is_full_while_hydra_writes_is_one_line(size: int, tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        ended = launch(*EVALUATE, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ended.status == 2
    assert "File too large" in ended.err
    assert ended.err.count("\n") == 1


def test_what_the_encoding_lacks_is_escaped(run: Path):
    command = [sys.executable, "-m", "mmsafe.report", "runs=run"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=run.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean over seeds \\xb1" in done.stdout


DAMAGED = ["", "{", "[]", "3", "\xff", "[" * 100_000, '{"config": 3}', '{"config": [["a", 1]]}', '{"a": [1]}']


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with all that commands read."""
    folder = RunWriter(write_data(tmp_path / "data", ["How?", "Why?"]))(
        tmp_path / "run", [("Sorry.", REFUSED), ("So.", SAFE)]
    )
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {objective: bpo}}}\n")
    return folder


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Ended]:
    return lambda name, *words: launch(name, *words, cwd=tmp_path)


@pytest.mark.parametrize("content", DAMAGED, ids=lambda text: repr(text[:25]))
def test_a_damaged_record_of_a_run_is_one_line_in_every_command_that_reads_it(
    content: str, run: Path, call: Callable[..., Ended]
):
    commands = {
        "run.json": [
            ("report", "runs=run"),
            ("samples", "runs=run"),
            ("compare", "a=run", "b=run"),
            ("evaluate", "checkpoint=run"),
        ],
        "metrics.json": [("report", "runs=run"), ("samples", "runs=run")],
        "judgements.jsonl": [("agreement", "a=run", "b=run"), ("samples", "runs=run"), ("compare", "a=run", "b=run")],
        ".hydra/overrides.yaml": [("report", "runs=run")],
        ".hydra/hydra.yaml": [("report", "runs=run")],
    }
    for name, readers in commands.items():
        if name not in ("run.json", "judgements.jsonl") and "config" in content:
            continue  # a mapping, as it should be
        if (name, content) in {(".hydra/overrides.yaml", "[]"), (".hydra/hydra.yaml", '{"a": [1]}')}:
            continue
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content.encode("latin-1"))
        shared = name != "judgements.jsonl" and content != "{"  # what reads the file
        for reader in readers[:1] if shared else readers:
            ended = call(*reader)
            assert ended.status == 2, (name, reader, ended.err)
            lines = [line for line in ended.err.splitlines() if line.startswith("mmsafe.")]
            assert len(lines) == 1, (name, reader, ended.err)
            assert Path(name).name in lines[0]
            assert "Traceback" not in ended.err
        (run / name).write_bytes(whole)


def test_a_sweep_with_a_damaged_record_says_which(tmp_path: Path):
    for content in (*DAMAGED, json.dumps({"jobs": [{"job": "a"}]}), json.dumps({"jobs": 3})):
        (tmp_path / "sweep.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(UserError, match=r"sweep\.json: is damaged"):
            recorded(tmp_path)
    (tmp_path / "failed.json").write_text("[]")
    with pytest.raises(UserError, match=r"failed\.json: is damaged"):
        Job(tmp_path, []).look()


SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def no_job(cfg: object, config: object) -> None:
    raise AssertionError("a job began")


def hidden_by_an_error(number: signal.Signals) -> None:
    """As OmegaConf does."""
    try:
        signal.raise_signal(number)
    except BaseException as end:
        raise AssertionError from end


def survived(number: signal.Signals) -> None:
    with suppress(SystemExit):
        signal.raise_signal(number)


@pytest.mark.parametrize("code", [signal.raise_signal, hidden_by_an_error, survived])
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_with_its_own_status_whatever_code_makes_of_it(code: Any, number: signal.Signals, status: int):
    with pytest.raises(SystemExit) as ended, ended_at_once():
        code(number)
    assert ended.value.code == status


def test_afterwards_signals_mean_what_they_did():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with ended_at_once():
        assert [signal.getsignal(number) for number, _ in SIGNALS] != before
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


def test_a_command_that_is_stopped_while_it_checks_its_config_does_not_call_it_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """OmegaConf raises an error of its own where the signal cuts into it, and composing makes a `UserError` of that."""

    def check(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit as end:
            raise UserError("hydra.run.dir=run: ") from end

    monkeypatch.setattr(app, "check_arguments", check)
    monkeypatch.setattr(sys, "argv", ["mmsafe.train"])
    with pytest.raises(SystemExit) as ended:
        app.entry_point("train", TrainConfig, no_job)()
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""
