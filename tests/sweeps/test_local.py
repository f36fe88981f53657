"""Jobs as processes: their names, how many at a time, on which GPUs, and what becomes of them."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console

from mmsafe.runs.launchers import LocalLauncher
from mmsafe.sweeps.board import board, job_table, last_row
from mmsafe.sweeps.job import Job, job_name, sweep_name
from mmsafe.sweeps.local_launcher import LocalJobs

FINISHES = "(folder / 'metrics.json').write_text('{}')"
COUNTS = "count = folder / 'starts'; count.write_text(count.read_text() + 'x' if count.exists() else 'x')"


def job(folder: Path, *lines: str, devices: int = 1) -> Job:
    """A job that runs `lines`; `folder` is a name in them."""
    start = f"import os, signal, sys, time; from pathlib import Path; folder = Path({str(folder)!r})"
    return Job(folder, [sys.executable, "-c", "\n".join([start, COUNTS, *lines])], devices=devices)


def run(*jobs: Job, **options: object) -> str:
    """Run them; returns what was said."""
    with Console(file=open(os.devnull, "w"), record=True, width=200) as console, board(jobs, console) as show:
        LocalJobs(jobs, LocalLauncher(**options)).run(show)  # type: ignore[arg-type]
    return console.export_text()


def starts(one: Job) -> int:
    path = one.folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_one_that_fails_and_one_that_is_killed_leave_the_others_alone(tmp_path: Path):
    jobs = [
        job(tmp_path / "fails", "print('mmsafe.train: x.json: no such file', file=sys.stderr); sys.exit(2)"),
        job(tmp_path / "killed", "os.kill(os.getpid(), signal.SIGKILL)"),
        job(tmp_path / "silent", "sys.exit(0)"),
        job(tmp_path / "good", FINISHES),
    ]
    said = run(*jobs, jobs=2)
    assert [one.state for one in jobs] == ["failed", "failed", "failed", "finished"]
    assert [one.message for one in jobs] == [
        "mmsafe.train: x.json: no such file",
        "killed by SIGKILL",
        "ended with status 0 and said nothing",
        "",
    ]
    assert "fails: failed (mmsafe.train: x.json: no such file)" in said
    assert "[4/4] good: finished" in said
    failed = json.loads((tmp_path / "fails" / "failed.json").read_text())
    assert failed["status"] == 2
    assert "no such file" in Path(failed["log"]).read_text()


def test_finished_ones_are_left_alone_failed_ones_too_unless_asked_for(tmp_path: Path):
    def jobs() -> list[Job]:
        later = "sys.exit(1) if len(count.read_text()) == 1 else None"
        return [job(tmp_path / "good", FINISHES), job(tmp_path / "bad", later, FINISHES)]

    first, second, third = jobs(), jobs(), jobs()
    run(*first)
    run(*second)
    assert [one.state for one in second] == ["finished", "failed"]
    assert [starts(one) for one in second] == [1, 1]
    run(*third, retry_failed=True)
    assert [one.state for one in third] == ["finished", "finished"]
    assert [starts(one) for one in third] == [1, 2]
    assert not (tmp_path / "bad" / "failed.json").exists()


AT_WORK = """
(folder.parent / (folder.name + '.at-work')).touch(); time.sleep(0.5)
(folder / 'together').write_text(str(len(list(folder.parent.glob('*.at-work')))))
(folder.parent / (folder.name + '.at-work')).unlink()
"""


def test_never_more_than_so_many_at_a_time(tmp_path: Path):
    jobs = [job(tmp_path / str(number), AT_WORK, FINISHES) for number in range(4)]
    run(*jobs, jobs=2)
    together = [int((one.folder / "together").read_text()) for one in jobs]
    assert max(together) == 2


def visible(one: Job) -> str:
    return (one.folder / "gpus").read_text()


SEES = "(folder / 'gpus').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))"


def test_gpus_are_shared_out_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    wide = job(tmp_path / "wide", SEES, AT_WORK, FINISHES, devices=2)
    narrow = [job(tmp_path / f"narrow{number}", SEES, AT_WORK, FINISHES) for number in range(3)]
    run(*narrow, wide, jobs=4, gpus=[3, "GPU-a"])
    assert {visible(narrow[0]), visible(narrow[1])} == {"3", "GPU-a"}
    assert set(visible(wide).split(",")) == {"3", "GPU-a"}
    assert int((wide.folder / "together").read_text()) == 1
    everything = job(tmp_path / "all", SEES, FINISHES)
    run(everything)
    assert visible(everything) == "all"


STOPS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); (folder / 'ready').touch(); time.sleep(60)"


def test_a_stop_reaches_the_jobs_and_starts_no_others(tmp_path: Path):
    jobs = [job(tmp_path / "running", STOPS), job(tmp_path / "waiting", FINISHES)]

    def stop() -> None:
        while not (tmp_path / "running" / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert LocalJobs(jobs, LocalLauncher()).run(lambda: None) == signal.SIGTERM
    assert [one.state for one in jobs] == ["stopped", "stopped"]
    assert [starts(one) for one in jobs] == [1, 0]
    assert not list(tmp_path.glob("*/failed.json"))


SWEEP = """
import sys
from pathlib import Path
from mmsafe.sweeps.job import Job
from mmsafe.sweeps.local_launcher import LocalJobs
from mmsafe.runs.launchers import LocalLauncher
LocalJobs([Job(Path(sys.argv[1]), sys.argv[2:])], LocalLauncher()).run(lambda: None)
"""


def test_a_process_that_a_killed_sweep_left_behind_is_waited_for_not_started_twice(tmp_path: Path):
    slow = job(tmp_path / "slow", "(folder / 'ready').touch()", "time.sleep(1.3)", FINISHES)
    first = subprocess.Popen([sys.executable, "-c", SWEEP, str(slow.folder), *slow.command])
    while not (slow.folder / "ready").exists():
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    said = run(slow)
    assert slow.state == "finished"
    assert starts(slow) == 1
    assert "slow: elsewhere" in said


def test_the_table_shows_step_time_left_and_the_last_metric(tmp_path: Path):
    """4 steps make an epoch here, of 2 epochs: 8 steps, of which 3 are done, at 2 seconds each: 10 seconds are left."""
    (tmp_path / "a").mkdir()
    written = "step,train/loss,train/epoch,perf/seconds\n2,0.7,0.5,1.0\n3,0.625,0.75,2.0\n4,0.5"
    (tmp_path / "a" / "metrics.csv").write_text(written)
    running = Job(tmp_path / "a", [], max_epochs=2, state="running")
    failed = Job(tmp_path / "b", [], state="failed", message="killed by SIGKILL")
    with Console(file=open(os.devnull, "w"), record=True, width=120) as console:
        console.print(job_table([running, failed]))
    text = console.export_text()
    assert all(part in text for part in ("1 running", "1 failed", "3/8", "0:00:10", "train/loss 0.625", "SIGKILL"))
    assert last_row(tmp_path / "a" / "metrics.csv")["step"] == 3
    assert last_row(tmp_path / "nothing.csv") == {}


def test_a_terminal_shows_the_table_while_jobs_run(tmp_path: Path):
    """In its first refresh nothing is over, in its last all is; lines as in a log file are not written between."""
    jobs = [
        job(tmp_path / "good", "time.sleep(1.3)", FINISHES),
        job(tmp_path / "bad", "time.sleep(1.3)", "sys.exit('so it was')"),
    ]
    shown = io.StringIO()
    with board(jobs, Console(file=shown, force_terminal=True, width=120)) as show:
        LocalJobs(jobs, LocalLauncher(jobs=2)).run(show)
    frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).split("last metric")
    assert len(frames) > 3, "the table was not drawn again"
    assert "2 running" in frames[0]
    assert "1 finished · 1 failed" in frames[-2]
    assert "so it was" in frames[-1]
    assert "[0/2]" not in shown.getvalue()


CONFIG = {"seed": 0, "trainer": {"progress_bar": True, "max_steps": 2}, "hydra": {}, "launcher": {"jobs": 1}}


def name(overrides: dict[str, str], **changed: object) -> str:
    return job_name(overrides, OmegaConf.create({**CONFIG, **changed}))


def test_a_job_is_named_by_what_it_is():
    found = name({"objective": "bpo", "objective.beta": "0.1", "seed": "3", "trainer.deterministic": "true"})
    assert found.rpartition("-")[0] == "bpo-beta0.1-seed3-deterministictrue"
    assert name({"objective.beta": "0.12520653814999466"}).startswith("beta0.1252-")


def test_what_changes_no_result_does_not_change_the_name():
    assert name({}) == name({}, launcher={"jobs": 2}, trainer={"progress_bar": False, "max_steps": 2})
    assert name({}) != name({}, trainer={"progress_bar": True, "max_steps": 3})
    assert name({}) != name({}, seed=1)


@pytest.mark.parametrize("value", ["data/train set (1).json", "[a,b]", "'quoted=text'", "{a: 1}", "ü" * 300])
def test_a_folder_can_be_named_in_an_override_without_quotes(value: str):
    found = name({"data.path": value})
    parsed = OverridesParser.create().parse_override(f"checkpoint=multirun/x-12/{found}")
    assert parsed.value() == f"multirun/x-12/{found}"
    assert len(found.encode()) < 255


def test_a_sweep_is_named_by_its_command_however_it_is_started():
    words = ["objective=sft,dpo", "objective.beta=0.1,0.2", "data.size=8"]
    found = sweep_name(words)
    assert found.startswith("objective-beta-")
    assert sweep_name([*words, "launcher.jobs=3", "trainer.progress_bar=false"]) == found
    assert sweep_name([words[0], words[2], words[1]]) == found
    assert sweep_name([*words[:2], "data.size=9"]) != found
    assert sweep_name(["sweep=beta", "seed=1,2"]).startswith("beta-")
