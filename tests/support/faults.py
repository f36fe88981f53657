"""Commands of mmsafe in processes that are forked with everything imported, and end at a point of the test's choice."""

import importlib
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

POINTS = {
    "model is loaded": ("mmsafe.microworld.tiny", "TinyModel.load"),
    "responses are kept": ("mmsafe.generation.responses", "ResponseStore.append"),
    "log-probs are kept": ("mmsafe.reference.store", "LogProbStore.write"),
    "log-probs are written": ("mmsafe.reference.store", "save_file"),
    "file is put in place": ("os", "replace"),
    "forward": ("mmsafe.training.module", "PreferenceModule.training_step"),
    "optimiser": ("torch.optim", "AdamW.step"),
    "step is logged": ("mmsafe.training.module", "PreferenceModule.log_step"),
    "validation": ("mmsafe.training.validation", "Validation.__call__"),
    "best is told": ("mmsafe.training.best", "Best.add"),
    "checkpoint is begun": ("mmsafe.training.checkpointing", "Checkpoints.save"),
    "checkpoint is half written": ("torch", "save"),
    "checkpoint reaches the disk": ("mmsafe.training.checkpointing", "_wait_for_disk"),
    "pointer is written": ("mmsafe.training.checkpointing", "write_json"),
    "old one is removed": ("mmsafe.training.checkpointing", "_remove"),
    "best is loaded": ("mmsafe.training.fit", "load_trained"),
    "model is saved": ("mmsafe.models.vlm", "VLM.save"),
    "model is put in place": ("pathlib", "Path.rename"),
    "evaluation": ("mmsafe.experiment.train_job", "evaluate"),
}
"""Functions, by what happens in them; a process can be ended as one begins, as it ends, or half-way through a file."""


class Fault(NamedTuple):
    """Signal `number` comes at the `count`-th passing of a point."""

    point: str
    count: int
    number: int


class Moment(NamedTuple):
    """Signal `number` comes after so many seconds of the processor's time, which other processes do not stretch."""

    seconds: float
    number: int


def run(words: list[str], folder: Path, cache: Path, fault: Fault | Moment | None) -> None:
    """`python -m mmsafe.train …` in this process; its output is added to `folder/log`."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that a user starts
    os.environ["MMSAFE_CACHE"] = str(cache)
    sys.argv = ["mmsafe.train", *words]
    if isinstance(fault, Fault):
        _arm(fault, folder)
    if isinstance(fault, Moment):
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), fault.number))
        signal.setitimer(signal.ITIMER_PROF, fault.seconds)
    begin = time.process_time()
    importlib.import_module("mmsafe.train").main()
    (folder / "seconds").write_text(str(time.process_time() - begin))


def _arm(fault: Fault, folder: Path) -> None:
    module, path = POINTS[fault.point]
    owner: Any = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    passed = 0

    def point() -> None:
        nonlocal passed
        passed += 1
        if passed == fault.count:
            (folder / "reached").touch()
            os.kill(os.getpid(), fault.number)

    setattr(owner, name, (_halved if name == "save" and module == "torch" else _around)(getattr(owner, name), point))


def _around(function: Callable[..., Any], point: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        point()
        result = function(*args, **options)
        point()
        return result

    return wrapped


def _halved(save: Callable[..., Any], point: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(value: Any, file: Any) -> None:
        whole = io.BytesIO()
        save(value, whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        point()
        file.write(whole.getvalue()[half:])

    return wrapped


STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""Exit status of a process that a signal ended."""
