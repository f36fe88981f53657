"""A run that is killed or stopped again and again, wherever it is, ends as if it had been left alone."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import signal
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import STATUS, Fault, Moment
from fitting import untimed
from safetensors.torch import load_file

from mmsafe.core.files import read_metrics
from mmsafe.training.checkpoint_files import trained_weights

SUPPORT = Path(__file__).parent / "support"
EVERY = 3
WORDS = [
    *("model=random", "objective=bpo", "data.size=18", "data.test_size=8", "data.batch_size=4", "data.num_workers=1"),
    *("generation.max_new_tokens=6", "generation.batch_size=4", "evaluation.max_new_tokens=6", "benchmark.size=8"),
    *("benchmark.neutral_size=2", "trainer.accelerator=cpu", "trainer.max_epochs=6", "trainer.progress_bar=false"),
    *("optimizer.lr=1e-3", "optimizer.global_batch_size=8", f"checkpoint.every_n_steps={EVERY}"),
    *("checkpoint.keep=true", "hydra.run.dir=run", "trainer.validate_every=2", "validate.generate=4"),
    *("checkpoint.monitor=val/loss/preference", "checkpoint.keep_best=2", "checkpoint.load_best=true"),
    "early_stopping.patience=5",
]
STEPS = 12  # of 18, 3 of each epoch: 8, 8 and 2 of the 18 items, in micro-batches of 4; it stops early
BEST = [2, 12]
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
FAULTS = [
    Fault("model is loaded", 1, TERM),
    Fault("model is loaded", 2, INT),
    Fault("responses are kept", 1, TERM),
    Fault("responses are kept", 2, KILL),
    Fault("responses are kept", 3, INT),
    Fault("log-probs are kept", 1, INT),
    Fault("log-probs are written", 2, KILL),
    Fault("log-probs are written", 1, TERM),
    Fault("file is put in place", 3, KILL),
    Fault("forward", 1, KILL),
    Fault("forward", 2, TERM),
    Fault("optimiser", 1, INT),
    Fault("validation", 1, KILL),
    Fault("best is told", 2, KILL),
    Fault("checkpoint is half written", 1, KILL),
    Fault("pointer is written", 1, KILL),
    Fault("pointer is written", 2, KILL),
    Fault("old one is removed", 1, KILL),
    Fault("checkpoint is begun", 1, INT),
    Fault("validation", 2, TERM),
    Fault("checkpoint reaches the disk", 1, KILL),
    Fault("step is logged", 1, KILL),
    Fault("optimiser", 2, KILL),
    Fault("checkpoint is half written", 1, TERM),
    Fault("checkpoint reaches the disk", 2, TERM),
    Fault("best is loaded", 1, KILL),
    Fault("model is saved", 1, TERM),
    Fault("model is saved", 2, KILL),
    Fault("model is put in place", 1, KILL),
    Fault("evaluation", 1, INT),
    Fault("evaluation", 2, KILL),
]
"""In the order in which a run passes the points; each also is the work of the process before it, continued."""
IN_ROUNDS = [
    *("model=random", "objective=bpo", "rounds=3", "data.size=8", "data.test_size=4", "data.batch_size=4"),
    *("generation.max_new_tokens=4", "generation.batch_size=4", "evaluation.max_new_tokens=4", "benchmark.size=4"),
    *("benchmark.neutral_size=1", "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.progress_bar=false"),
    *("optimizer.lr=1e-3", f"checkpoint.every_n_steps={EVERY}", "hydra.run.dir=run"),
]
FAULTS_IN_ROUNDS = [
    Fault("optimiser", 4, KILL),
    Fault("optimiser", 1, TERM),
    Fault("model is put in place", 1, KILL),  # of the first round
    Fault("evaluation", 1, INT),
    Fault("responses are kept", 3, KILL),  # of the second: after the two batches of its evaluation
    Fault("log-probs are kept", 1, KILL),
    Fault("optimiser", 2, TERM),
    Fault("model is put in place", 2, KILL),
    Fault("file is put in place", 8, KILL),
    Fault("optimiser", 3, KILL),  # of the third
    Fault("checkpoint is begun", 1, TERM),
    Fault("model is saved", 2, KILL),
]


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes forked from one that has imported everything and started nothing: a second each in place of ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults", "imported"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SUPPORT))  # Python 3.11 does not tell the server of `sys.path`
        forkserver.ensure_running()
    return context


def started(processes: Any, folder: Path, fault: Fault | Moment | None = None, words: list[str] = WORDS) -> BaseProcess:
    folder.mkdir(exist_ok=True)
    process = processes.Process(target=faults.run, args=(words, folder, folder / "cache", fault))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float | None = 100) -> int | None:
    process.join(seconds)
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(started(processes, folder)) == 0, (folder / "log").read_text()[-3000:]
    return folder


def logged(folder: Path) -> int:
    """The last step of the log."""
    return max((int(row["step"]) for row in read_metrics(folder / "run" / "metrics.csv")), default=0)


def saved(folder: Path) -> int:
    """The step of the checkpoint that counts."""
    pointer = folder / "run" / "checkpoints" / "last.json"
    return int(json.loads(pointer.read_text())["step"]) if pointer.exists() else 0


def kept(folder: Path) -> list[int]:
    """The steps whose checkpoints are there."""
    return sorted(int(path.stem[5:]) for path in (folder / "run" / "checkpoints").glob("step=*"))


def tracebacks(log: Path) -> int:
    """How many there are, but for those of signals in a callback or `__del__`, which Python tells of and goes on."""
    return len(
        re.findall(r"(?<!Exception ignored)\nTraceback", re.sub(r"(Exception ignored) in.*", r"\1", log.read_text()))
    )


def assert_same(found: Path, expected: Path) -> None:
    """The weights bit by bit, all that was logged but times, all that was measured, and both caches."""
    for folder in (found, expected):
        assert logged(folder) == saved(folder) == STEPS
        pointer = json.loads((folder / "run" / "checkpoints" / "last.json").read_text())
        assert (pointer["best"], kept(folder)) == (BEST, BEST)
    weights, own = (load_file(folder / "run" / "model" / "model.safetensors") for folder in (expected, found))
    assert [name for name, weight in weights.items() if not weight.equal(own[name])] == []
    rows, others = (read_metrics(folder / "run" / "metrics.csv") for folder in (expected, found))
    assert [untimed(row) for row in others] == [untimed(row) for row in rows]
    last, own = (trained_weights(folder / "run" / "checkpoints" / f"step={STEPS}.ckpt") for folder in (expected, found))
    assert [name for name, weight in last.items() if not weight.equal(own[name])] == []
    asked = sorted(path.relative_to(expected / "run") for path in (expected / "run").rglob("generations.jsonl"))
    assert len(asked) == 2 + STEPS // 2, "at the end, of the reference, and of each validation"
    for name in ("metrics.json", *asked):
        assert (found / "run" / name).read_bytes() == (expected / "run" / name).read_bytes()
    assert responses(found) == responses(expected)
    assert log_probs(found).keys() == log_probs(expected).keys()
    assert all(rows.equal(log_probs(found)[name]) for name, rows in log_probs(expected).items())


def responses(folder: Path) -> list[str]:
    """Lines of the cache; the model's key is the same, as its weights are."""
    paths = (folder / "cache" / "responses").rglob("*.jsonl")
    return sorted(line for path in paths for line in path.read_text().splitlines())


def log_probs(folder: Path) -> dict[str, Any]:
    paths = (folder / "cache" / "reference").rglob("*.safetensors")
    return {path.name: load_file(path)["log_probs"] for path in paths}


@pytest.mark.slow
def test_a_run_that_is_ended_at_every_point_ends_as_if_it_had_not_been(
    processes: Any, undisturbed: Path, tmp_path: Path
):
    for fault in FAULTS:
        status = ended(started(processes, tmp_path, fault))
        assert status == STATUS[fault.number], f"{fault}: {(tmp_path / 'log').read_text()[-3000:]}"  # type: ignore[index]
        (tmp_path / "reached").unlink()
        assert logged(tmp_path) - saved(tmp_path) <= EVERY, fault
    assert ended(started(processes, tmp_path)) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_a_run_that_is_ended_at_any_moment_ends_as_if_it_had_not_been(
    processes: Any, undisturbed: Path, tmp_path: Path, seed: int
):
    """Also between two points, and in code that is not ours."""
    chance, stopped, whole = random.Random(seed), 0, float((undisturbed / "seconds").read_text())
    for _ in range(20):
        number = chance.choice([KILL, TERM, INT])
        status = ended(started(processes, tmp_path, Moment(chance.uniform(0.01, 0.4) * whole, number)))
        assert status in (0, STATUS[number]), (tmp_path / "log").read_text()[-3000:]
        stopped += status != 0
    assert stopped >= 10
    assert ended(started(processes, tmp_path)) == 0
    assert tracebacks(tmp_path / "log") == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_rounds_that_are_ended_at_every_point_end_as_if_they_had_not_been(processes: Any, tmp_path: Path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert ended(started(processes, whole, words=IN_ROUNDS)) == 0, (whole / "log").read_text()[-3000:]
    for fault in FAULTS_IN_ROUNDS:
        status = ended(started(processes, torn, fault, IN_ROUNDS))
        assert status == STATUS[fault.number], f"{fault}: {(torn / 'log').read_text()[-3000:]}"  # type: ignore[index]
    assert ended(started(processes, torn, words=IN_ROUNDS)) == 0
    assert "Traceback" not in (torn / "log").read_text()
    for name in ("round-1", "round-2", "."):
        expected, found = whole / "run" / name, torn / "run" / name
        weights, own = (load_file(path / "model" / "model.safetensors") for path in (expected, found))
        assert [part for part, weight in weights.items() if not weight.equal(own[part])] == []
        for file in ("metrics.json", "generations.jsonl", "judgements.jsonl"):
            assert (found / file).read_bytes() == (expected / file).read_bytes()
        rows, others = (read_metrics(path / "metrics.csv") for path in (expected, found))
        assert [untimed(row) for row in others] == [untimed(row) for row in rows]
    assert responses(torn) == responses(whole)
    assert log_probs(torn).keys() == log_probs(whole).keys()
