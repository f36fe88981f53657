"""Runs a command of mmsafe inside the test's own process."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from pathlib import Path

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


class Ended:
    """How a command ended, and what it said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def launch(name: str, *overrides: str, cwd: Path, cache: Path) -> Ended:
    """`python -m mmsafe.<name> …` in this process, which saves the imports; leaves no traces in it."""
    import torch

    root, out, err = logging.getLogger(), io.StringIO(), io.StringIO()
    handlers, level, status = root.handlers[:], root.level, 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        environment = dict(os.environ)
        patch.setattr(sys, "argv", [f"mmsafe.{name}", *overrides])
        patch.setenv("MMSAFE_CACHE", str(cache))
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
