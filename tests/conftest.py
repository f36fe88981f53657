"""Shared fixtures: one thread, a cache of the test session's own, and a tiny LLaVA with random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is read from or left in the user's cache; one folder per test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMSAFE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def llava() -> Any:
    """A tiny LLaVA with random weights; tests that change it take a deep copy."""
    from mmsafe.microworld.tiny import TinyModel

    return TinyModel(pretraining=None).load()


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m mmsafe.<name> …` in a process of its own, in the checkout unless `cwd` says otherwise."""

    def run(name: str, *overrides: str, cwd: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"mmsafe.{name}", *overrides]
        return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)

    return run
