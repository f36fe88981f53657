"""One run at a time in a folder: of two that begin together one goes on, and what is killed lets go."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import QUICK, refuse

from mmsafe.core.errors import UserError
from mmsafe.core.run_lock import NAME, PATIENCE, RUN, held, refuse_held, taken

HOLD = """
import sys, time
from pathlib import Path
from mmsafe.core.errors import UserError
from mmsafe.core.run_lock import held

folder = Path(sys.argv[1])
try:
    with held(folder):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except UserError as error:
    print(error, flush=True)
"""


def holder(folder: Path, seconds: float, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_of_runs_that_begin_together_one_holds_the_folder_and_the_others_are_told_who(tmp_path: Path):
    processes = [holder(tmp_path / "run", 5) for _ in range(6)]
    told = [said(process) for process in processes]
    (winner,) = [process for process, line in zip(processes, told, strict=True) if line == "held\n"]
    for line in [line for line in told if line != "held\n"]:
        assert f"run: process {winner.pid} on " in line
        assert line.endswith("is at work there; wait for it, or choose another folder\n")
    for process in processes:
        process.wait(60)
    with held(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == [], "nothing is left there"


def test_processes_of_one_run_hold_it_together_and_the_last_one_alive_still_does(tmp_path: Path):
    """As of `trainer.devices=2`: the command, which is killed, and a process that it started."""
    first = holder(tmp_path, 60, **{RUN: "this"})
    assert said(first) == "held\n"
    second = holder(tmp_path, 60, **{RUN: "this", "RANK": "0"})
    assert said(second) == "held\n"
    first.kill()
    first.wait()
    assert taken(tmp_path, "another", patience=0.3) is None
    second.kill()
    with held(tmp_path):  # waits until it is dead
        pass
    second.wait()


def test_a_killed_process_lets_go_though_a_process_that_it_forked_lives_on(tmp_path: Path):
    script = HOLD.replace('print("held"', 'import os; os.fork() or (time.sleep(5), os._exit(0)); print("held"')
    command = [sys.executable, "-c", script, str(tmp_path), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert said(first) == "held\n"
        first.kill()
        first.wait()
        with held(tmp_path):
            pass


def test_a_held_folder_is_refused_before_anything_in_it_is_touched(tmp_path: Path):
    process = holder(tmp_path / "run", 60)
    try:
        assert said(process) == "held\n"
        words = ["objective=sft", "evaluate=false", "trainer.max_steps=1", "hydra.run.dir=run"]
        assert f"hydra.run.dir=run: process {process.pid} on" in refuse(
            "train", *QUICK, *words, cwd=tmp_path, cache=tmp_path
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [NAME]
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            refuse_held(tmp_path / "run")
    finally:
        process.kill()
        process.wait()


def test_a_lock_that_leads_to_another_file_leaves_that_alone(tmp_path: Path):
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"), held(tmp_path / "run"):
        pass
    assert mine.read_text() == "precious"


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_and_the_command_goes_on(tmp_path: Path):
    words = [*QUICK, "objective=sft", "trainer.accelerator=cpu", "trainer.max_epochs=400", "evaluate=false"]
    words += ["trainer.devices=2", "data.batch_size=1", "checkpoint.every_n_steps=2", "hydra.run.dir=run"]
    command = [sys.executable, "-m", "mmsafe.train", *words]
    environment = os.environ | {"MMSAFE_CACHE": str(tmp_path / "cache")}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "metrics.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 6, 100)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(children) >= 2
    first.kill()
    first.wait()
    wait_for(lambda: not any(is_alive(child) for child in children), PATIENCE)
    again = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    before = log.stat().st_mtime
    wait_for(lambda: log.stat().st_mtime > before, 100)
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == 143


def is_alive(process: str) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "zombie" not in status.read_text()


def wait_for(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
