"""Ways of starting a run that cannot work, refused before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from mmsafe.core import ranks
from mmsafe.core.config import built
from mmsafe.core.errors import UserError
from mmsafe.runs.launch_options import LocalLauncher

SUBMITIT = ("slurm", "slurm_8gpu", "submitit_slurm", "submitit_local")
"""Options of `hydra/launcher` that come with an extra."""


def check_installed(launcher: str, known: list[str]) -> None:
    """Raise `UserError` if `launcher` is one of submitit's, and its plugin is not among those that Hydra knows."""
    if launcher in SUBMITIT and "submitit_slurm" not in known:
        raise UserError(f"hydra/launcher={launcher}: needs submitit; run pip install 'mmsafe[slurm]'")


def about_devices(cfg: DictConfig, name: str) -> tuple[str, int]:
    """Where a command has its option `devices` or `num_nodes`, of the trainer if it has one, and its value, else 1."""
    where = f"trainer.{name}" if "trainer" in cfg else name
    return where, int(OmegaConf.select(cfg, where, default=1))


def check_launch(cfg: DictConfig, multirun: bool, keys: Sequence[str] = ()) -> None:
    """Raise `UserError` if a job of `cfg`, which holds Hydra's own node, cannot be started from here in this way.

    `keys` are what the command line sets.
    """
    launcher = cfg.hydra.runtime.choices["hydra/launcher"]
    if multirun and ranks.started():
        raise UserError("-m: a sweep is started by one process, without torchrun or srun; each job starts its own")
    sweeping = [key for key in keys if key.partition(".")[0] in ("launcher", "search")]
    if not multirun and sweeping:
        raise UserError(f"{sweeping[0]}: says how the jobs of a sweep are started; add -m")
    if not multirun and launcher not in ("basic", "local"):
        raise UserError(f"hydra/launcher={launcher}: starts the jobs of a sweep; add -m, also for a single job")
    if str(cfg.hydra.launcher._target_).endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(f"hydra/launcher={launcher}: there is no srun here; use a login node of the cluster")
    _check_tasks(cfg, launcher)
    where, nodes = about_devices(cfg, "num_nodes")
    if multirun and launcher == "local" and nodes > 1:
        raise UserError(f"{where}: launcher=local has one machine; choose hydra/launcher=slurm")
    if "launcher" in cfg:
        _check_local(built(OmegaConf.to_container(cfg.launcher, resolve=True), "launcher"), cfg)
    folder = OmegaConf.to_container(cfg.hydra.run, resolve=False)
    if ranks.started() and "${now:" in str(folder):
        raise UserError("hydra.run.dir: set it, so that all processes share a folder; it is named by the clock")


def _check_local(options: LocalLauncher, cfg: DictConfig) -> None:
    """A job must find the devices that it wants among those that are shared out."""
    wanted = about_devices(cfg, "devices")[1]
    if options.gpus is not None and wanted > len(set(options.gpus)):
        raise UserError(f"launcher.gpus: has {len(set(options.gpus))} GPUs; a job wants {wanted}")


def _check_tasks(cfg: DictConfig, launcher: str) -> None:
    """A launcher with tasks of its own must start as many as the run expects."""
    option, devices = about_devices(cfg, "devices")
    tasks = OmegaConf.select(cfg, "hydra.launcher.tasks_per_node", default=devices)
    if tasks != devices and "Slurm" in str(cfg.hydra.launcher._target_):
        raise UserError(f"hydra/launcher={launcher}: starts {tasks} processes on a machine; add {option}={tasks}")
