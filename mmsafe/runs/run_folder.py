"""A run folder: what a run was given, and what it found."""

import logging
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmsafe import __version__
from mmsafe.core.command_line import program, words_typed
from mmsafe.core.config import SHOWN, resolved
from mmsafe.core.declared import Declared, declared_in, declared_of, write_by_tag
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_json, write_record
from mmsafe.core.options import home
from mmsafe.core.ranks import is_first
from mmsafe.core.run_lock import NAME as LOCK
from mmsafe.core.run_record import ABOUT, METRICS, about_run, metrics_of
from mmsafe.core.storage import needs_room
from mmsafe.data.example import digest
from mmsafe.runs.plan import read_plan

log = logging.getLogger(__name__)
FAILED = "failed.json"
"""What a sweep leaves in the folder of a job that failed."""
PACKAGES = ("torch", "transformers", "pytorch-lightning", "hydra-core", "datasets", "pillow", "numpy")


class RunFolder:
    """`run.json` is written first, `metrics.json` last: its presence means *finished*."""

    def __init__(self, path: Path, cfg: DictConfig) -> None:
        self.path = path
        self.config = resolved(cfg)
        self.about: dict[str, Any] = {"config_hash": digest(self.config)}

    def claim(self) -> dict[str, Any] | None:
        """Take the folder for this config; returns the metrics of a run that is finished there, else None.

        Raises `UserError` if it holds a run of another config.
        """
        self.about = refuse_other_config(self.path, self.config) | self.about
        metrics = metrics_of(self.path) if (self.path / METRICS).exists() else None
        if metrics is None:
            self.note(config=self.config, **environment())
            if plan := self.config.get("plan"):
                self.note_inputs(plan=read_plan(home(Path(plan)))[1])
        else:
            log.info("%s is finished; nothing to do", self.path)
        return metrics

    def note(self, **facts: Any) -> None:
        """Add facts to `run.json`: versions, fingerprints, counts."""
        self.about |= facts
        if is_first():
            write_record(self.path / ABOUT, self.about)

    def declared(self, metrics: Mapping[str, Any]) -> Declared:
        """What is declared of the metrics of this run."""
        return declared_in(self.about, metrics, self.path)

    def note_inputs(self, **fingerprints: str) -> None:
        """Note what is trained, and on what; raises `UserError` if the run in this folder began with something else."""
        for name, fingerprint in fingerprints.items():
            if self.about.get(name) not in (None, fingerprint):
                raise UserError(
                    f"{self.path}: the {name} changed since this run began, so it cannot be continued; "
                    "put it back, or choose another hydra.run.dir"
                )
        self.note(**fingerprints)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write `metrics.json`, the last file of a run, and before it what was measured by tag."""
        if is_first():
            write_by_tag(self.path, metrics, self.declared(metrics))
            write_json(self.path / METRICS, dict(sorted(metrics.items())))

    def save_trained(self, vlm: Any) -> None:
        """Write what was trained: `adapter/`, where the model has one, else `model/`."""
        if vlm.adapter is None:
            self.save_model(vlm)
            return
        with needs_room(self.path / "adapter"):
            vlm.adapter.save_pretrained(self.path / "adapter")

    def save_model(self, vlm: Any) -> Path:
        """Write `model/`; a kill in between leaves no half-written folder."""
        folder, unfinished = self.path / "model", self.path / "model.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with needs_room(folder):
                vlm.save(unfinished)
        except UserError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        return folder


def score(folder: Path) -> float | None:
    """What a search of Hydra's maximises in a finished run: the benchmark's score, else the negative loss of training.

    None if there is neither.
    """
    metrics = metrics_of(folder)
    if (best := declared_of(folder, metrics).score(metrics)) is not None:
        return best[1]
    return -float(metrics["train/loss"]) if "train/loss" in metrics else None


def refuse_other_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` says of an earlier run with this config; raises `UserError` if it had another one."""
    about = about_run(folder)
    if not about:
        return {}
    if changed := [name for name in _changed(about["config"], config) if name not in SHOWN]:
        enough = "" if _made(folder) else f" (it made nothing yet, so deleting {folder / ABOUT} is enough)"
        raise UserError(
            f"hydra.run.dir={folder}: holds a run with another config ({', '.join(changed[:4])}); "
            f"choose another folder or delete it{enough}"
        )
    return about


def _made(folder: Path) -> bool:
    """Whether a run left more there than records of how it began: none of it must be lost."""
    names = {path.name for path in folder.iterdir() if path.suffix != ".log"}
    return bool(names - {ABOUT, FAILED, LOCK, ".hydra"})


def environment() -> dict[str, Any]:
    """Versions, git commit and hardware: what it takes to understand a number later."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "mmsafe": __version__,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
        "command": [program(), *words_typed()],
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads(), "gpus": gpus},
    }


def _git_commit() -> str | None:
    """Commit of the checkout that the code runs from, `+changes` if it is not clean; None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    changed = any(not line.startswith("# ") for line in lines)
    return lines[0].removeprefix("# branch.oid ") + "+changes" * changed


def _changed(before: Any, after: Any, path: str = "") -> list[str]:
    """Dotted names of the options that differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        return [name for key in keys for name in _changed(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))]
    return [] if before == after else [path]
