"""Runs a command of mmsafe inside the test's own process."""

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

QUICK = (
    "model=random",
    "trainer.progress_bar=false",
    "data.size=16",
    "data.test_size=8",
    "data.batch_size=4",
    "generation.max_new_tokens=6",
    "evaluation.max_new_tokens=6",
    "benchmark.size=16",
    "benchmark.neutral_size=4",
)
"""Overrides with which a whole training run takes about a second beside its imports."""


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Until it holds; fails if the process ends before, or after minutes."""
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def launch(name: str, *overrides: str, cwd: Path, cache: Path | None = None) -> Ended:
    """`python -m mmsafe.<name> …` in this process, which saves the imports; leaves no traces in it.

    The cache is the folder `cache` in `cwd`, unless it is named.
    """
    import torch

    root, out, err = logging.getLogger(), io.StringIO(), io.StringIO()
    handlers, level, status = root.handlers[:], root.level, 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        environment = dict(os.environ)
        patch.setattr(sys, "argv", [f"mmsafe.{name}", *overrides])
        patch.setenv("MMSAFE_CACHE", str(cache or cwd / "cache"))
        patch.chdir(cwd)
        try:
            importlib.import_module(f"mmsafe.{name}").main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            torch.use_deterministic_algorithms(False)
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:], root.level = handlers, level
            for variable in set(os.environ) - set(environment):
                del os.environ[variable]
    return Ended(status, out.getvalue(), err.getvalue())


def succeed(name: str, *overrides: str, cwd: Path, cache: Path | None = None) -> Ended:
    """The same for a command that has to end well."""
    ended = launch(name, *overrides, cwd=cwd, cache=cache)
    assert ended.status == 0, ended.err
    return ended


def refuse(name: str, *overrides: str, cwd: Path, cache: Path | None = None) -> str:
    """What a command says that has to end with status 2, which is one line."""
    ended = launch(name, *overrides, cwd=cwd, cache=cache)
    assert ended.status == 2, ended.err
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith(f"mmsafe.{name}: "), ended.err
    return ended.err
