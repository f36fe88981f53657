"""Shared fixtures: one thread, a cache of the test session's own, and a tiny LLaVA with random weights."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

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


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """A file of options is parsed once, and again where it has changed: every command line takes some seventy."""
    Plugins.instance()  # which registers the class below
    files: Any = SourcesRegistry.instance().resolve("file")
    parse, known = files.load_config, dict[tuple[str, int], bytes]()

    def load(source: Any, config_path: str) -> Any:
        path = os.path.join(source.path, source._normalize_file_name(config_path))
        if not os.path.exists(path):
            return parse(source, config_path)  # which says so
        key = path, os.stat(path).st_mtime_ns
        if key not in known:
            known[key] = pickle.dumps(parse(source, config_path))
        return pickle.loads(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "load_config", load)
        yield


@pytest.fixture(scope="session")
def llava() -> Any:
    """A tiny LLaVA with random weights; tests that change it take a deep copy."""
    from mmsafe.microworld.tiny import TinyModel

    return TinyModel(pretraining=None).load()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m mmsafe.<name> …` in a process of its own, in the checkout unless `cwd` says otherwise."""

    def run(name: str, *overrides: str, cwd: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"mmsafe.{name}", *overrides]
        return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)

    return run
