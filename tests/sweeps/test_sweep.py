"""Whole sweeps, as a user starts them: each a command that starts processes of its own."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from launching import QUICK, wait_for

pytestmark = pytest.mark.slow  # minutes: every job is a process
COMMAND = ("-m", "objective=sft,bpo", "objective.beta=0.1,0.2", "launcher.jobs=2", "trainer.max_steps=4", *QUICK)


def started(place: Path, *overrides: str, command: str = "train", cache: Path | None = None) -> subprocess.Popen[str]:
    """A sweep in `place`, which says what it says into `out` and `err` there."""
    environment = os.environ | {"MMSAFE_CACHE": str((cache or place) / "cache")}
    words = [sys.executable, "-m", f"mmsafe.{command}", *overrides]
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        return subprocess.Popen(words, cwd=place, env=environment, stdout=out, stderr=err, text=True)


def run(place: Path, *overrides: str, status: int = 0, command: str = "train") -> str:
    """A sweep to its end; returns what it said."""
    assert started(place, *overrides, command=command).wait(900) == status, (place / "err").read_text()
    return (place / "out").read_text() + (place / "err").read_text()


def the_sweep(place: Path) -> Path:
    (folder,) = (place / "multirun").iterdir()
    return folder


def results(place: Path) -> list[dict[str, str]]:
    with (the_sweep(place) / "results.csv").open() as file:
        return list(csv.DictReader(file))


def jobs_of(sweep: subprocess.Popen[str]) -> dict[str, int]:
    """The process of each job that runs, by the name of its folder."""
    ps = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(sweep.pid)]
    listed = subprocess.run(ps, capture_output=True, text=True, check=False)  # status 1: there are none
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return {args.rpartition("/")[2].strip("'"): int(pid) for pid, args in lines if "hydra.run.dir=" in args}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where COMMAND has run without a disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    said = run(folder, *COMMAND)
    assert "4 combinations make 3 jobs, because some have no objective.beta" in said
    assert said.count("│ finished │") == 3
    return folder


def test_every_job_once_in_a_folder_named_by_what_it_is(place: Path):
    rows = results(place)
    found = [(row["objective"], row["objective.beta"], row["status"]) for row in rows]
    assert found == [("sft", "", "finished"), ("bpo", "0.1", "finished"), ("bpo", "0.2", "finished")]
    assert [row["job"].rpartition("-")[0] for row in rows] == ["sft", "bpo-beta0.1", "bpo-beta0.2"]
    for row in rows:
        folder = the_sweep(place) / row["job"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert float(row["train/loss"]) == metrics["train/loss"]
        config = json.loads((folder / "run.json").read_text())["config"]
        assert {"hydra", "launcher", "search"}.isdisjoint(config)
        assert str(config["objective"].get("beta", "")) == row["objective.beta"]


def test_what_jobs_share_is_made_once(place: Path):
    """Both BPO jobs run at the same time, and need the same blind responses: one for each of the 16 prompts."""
    made: Counter[str] = Counter()
    for path in (place / "cache" / "responses").rglob("*.jsonl"):
        made.update(f"{path.parent.name}/{json.loads(line)['prompt']}" for line in path.read_text().splitlines())
    assert max(made.values()) == 1
    assert 16 in Counter(key.partition("/")[0] for key in made).values()


def test_the_same_command_again_starts_nothing(place: Path):
    before = {path: path.stat().st_mtime_ns for path in the_sweep(place).glob("*/console.log")}
    table = (the_sweep(place) / "results.csv").read_bytes()
    changing_no_result = ("trainer.progress_bar=true", "launcher.jobs=1")
    run(place, "-m", *COMMAND[3:], *COMMAND[1:3], *changing_no_result)
    assert {path: path.stat().st_mtime_ns for path in the_sweep(place).glob("*/console.log")} == before
    assert (the_sweep(place) / "results.csv").read_bytes() == table


@pytest.mark.parametrize("with_jobs", [True, False], ids=["all", "sweep alone"])
def test_killed_at_any_moment_and_started_again_it_comes_to_the_same_results(
    with_jobs: bool, place: Path, tmp_path: Path
):
    seed = int(time.time())
    print("moment drawn with seed", seed)
    sweep = started(tmp_path, *COMMAND)
    wait_for(lambda: bool(list(tmp_path.glob("multirun/*/*/run.json"))), sweep)
    time.sleep(random.Random(seed).uniform(0, 8))
    running = jobs_of(sweep)
    assert running
    sweep.kill()
    for pid in running.values() if with_jobs else ():
        os.kill(pid, signal.SIGKILL)
    sweep.wait()
    run(tmp_path, *COMMAND)
    assert (the_sweep(tmp_path) / "results.csv").read_bytes() == (the_sweep(place) / "results.csv").read_bytes()


def test_a_job_that_fails_and_one_that_is_killed_are_named_and_the_others_finish(place: Path, tmp_path: Path):
    """4 tokens are too few for any prompt, which a job finds out when it has read the data."""
    lengths = ("-m", "lengths.max_length=2048,4,2047,2046", "lengths.on_overlong=error", "objective=dpo")
    options = (*lengths, *QUICK, "trainer.max_steps=2", "evaluate=false", "launcher.jobs=2")
    sweep = started(tmp_path, *options, cache=place)
    wait_for(lambda: any("2047" in name for name in jobs_of(sweep)), sweep)
    (pid,) = [pid for name, pid in jobs_of(sweep).items() if "2047" in name]
    os.kill(pid, signal.SIGKILL)
    assert sweep.wait(600) == 1
    out, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    rows = {row["lengths.max_length"]: row for row in results(tmp_path)}
    status = {length: row["status"] for length, row in rows.items()}
    assert status == {"2048": "finished", "4": "failed", "2047": "failed", "2046": "finished"}
    failed = json.loads((the_sweep(tmp_path) / rows["4"]["job"] / "failed.json").read_text())
    assert failed["status"] == 2
    assert failed["message"].startswith("mmsafe.train: ")
    assert "failed: killed by SIGKILL" in out
    assert f"2 of 4 jobs did not finish: {rows['4']['job']}, {rows['2047']['job']}" in err

    assert "2 of 4 jobs did not finish" in run(tmp_path, *options, status=1)


def test_trials_of_a_search_are_jobs_too(place: Path, tmp_path: Path):
    run(tmp_path, "sweep=optuna", "objective=dpo", "search.n_trials=2", "launcher.jobs=2", *QUICK)
    assert [row["status"] for row in results(tmp_path)] == ["finished", "finished"]
    with (the_sweep(tmp_path) / "pareto.csv").open() as file:
        front = list(csv.DictReader(file))
    assert {row["job"] for row in front} <= {row["job"] for row in results(tmp_path)}
    assert front
    run(tmp_path, "sweep=optuna", "objective=dpo", "search.n_trials=2", *QUICK)
    assert len(results(tmp_path)) == 2


def test_evaluations_are_swept_in_the_same_way(place: Path, tmp_path: Path):
    sizes = ("benchmark.size=8", "benchmark.neutral_size=2", "evaluation.max_new_tokens=4")
    varied = ("-m", "evaluation.batch_size=4,8", "model=random")
    run(tmp_path, *varied, *sizes, "launcher.jobs=2", command="evaluate")
    rows = results(tmp_path)
    assert [(row["evaluation.batch_size"], row["status"]) for row in rows] == [("4", "finished"), ("8", "finished")]
    assert rows[0]["eval/fluent_rate"] == rows[1]["eval/fluent_rate"]
