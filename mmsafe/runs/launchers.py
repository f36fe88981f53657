"""How jobs are started on this machine, and ways of starting a run that cannot work, refused before it begins."""

import shutil
from collections.abc import Sequence
from typing import Annotated

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from mmsafe.core import ranks
from mmsafe.core.config import built
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, options

SUBMITIT = ("slurm", "slurm_8gpu", "submitit_slurm", "submitit_local")
"""Options of `hydra/launcher` that come with an extra."""


@options
class LocalLauncher:
    """Jobs as processes of this machine."""

    jobs: Count = 1
    gpus: Annotated[tuple[int | str, ...], Field(min_length=1)] | None = None
    """GPUs to share out, each job taking `trainer.devices` of them, as CUDA_VISIBLE_DEVICES names them; one that is
    named twice takes two jobs. null: every job sees what the command sees."""
    retry_failed: bool = False


def local_launcher(cfg: DictConfig) -> LocalLauncher:
    """The options of the group `launcher`."""
    local = built(OmegaConf.to_container(cfg.launcher, resolve=True), "launcher")
    assert isinstance(local, LocalLauncher)
    return local


def about_devices(cfg: DictConfig, name: str) -> tuple[str, int]:
    """Where a command has its option `devices` or `num_nodes`, of the trainer if it has one, and its value, else 1."""
    where = f"trainer.{name}" if "trainer" in cfg else name
    return where, int(OmegaConf.select(cfg, where, default=1))


def check_launch(cfg: DictConfig, multirun: bool, keys: Sequence[str] = ()) -> None:
    """Raise `UserError` if a job of `cfg`, which holds Hydra's own node, cannot be started from here in this way.

    `keys` are what the command line sets.
    """
    launcher, target = cfg.hydra.runtime.choices["hydra/launcher"], str(cfg.hydra.launcher._target_)
    if multirun and ranks.started():
        raise UserError("-m: a sweep is started by one process, without torchrun or srun; each job starts its own")
    sweeping = [key for key in keys if key.partition(".")[0] in ("launcher", "search")]
    if not multirun and sweeping:
        raise UserError(f"{sweeping[0]}: says how the jobs of a sweep are started; add -m")
    if not multirun and launcher not in ("basic", "local"):
        raise UserError(f"hydra/launcher={launcher}: starts the jobs of a sweep; add -m, also for a single job")
    if target.endswith("SlurmLauncher") and shutil.which("srun") is None:
        raise UserError(f"hydra/launcher={launcher}: there is no srun here; use a login node of the cluster")
    option, devices = about_devices(cfg, "devices")
    tasks = OmegaConf.select(cfg, "hydra.launcher.tasks_per_node", default=devices)
    if tasks != devices and "Slurm" in target:
        raise UserError(f"hydra/launcher={launcher}: starts {tasks} processes on a machine; add {option}={tasks}")
    where, nodes = about_devices(cfg, "num_nodes")
    if multirun and launcher == "local" and nodes > 1:
        raise UserError(f"{where}: launcher=local has one machine; choose hydra/launcher=slurm")
    gpus = local_launcher(cfg).gpus if "launcher" in cfg else None
    if gpus is not None and devices > len(set(gpus)):
        raise UserError(f"launcher.gpus: has {len(set(gpus))} GPUs; a job wants {devices}")
    folder = OmegaConf.to_container(cfg.hydra.run, resolve=False)
    if ranks.started() and "${now:" in str(folder):
        raise UserError("hydra.run.dir: set it, so that all processes share a folder; it is named by the clock")
