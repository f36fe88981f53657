"""How every command starts: check, compose, run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import hydra
import hydra.core.utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.config import allow_plugins, conf_dir, plugins_of, typed, without_hydra
from mmsafe.core.endings import told
from mmsafe.core.errors import UserError
from mmsafe.core.run_lock import held
from mmsafe.core.settings import Devices
from mmsafe.core.signals import killed_workers
from mmsafe.runs.hydra_files import save_config
from mmsafe.runs.overrides import as_given, at_home, one_line, to_folder
from mmsafe.runs.preflight import check
from mmsafe.runs.requeue import requeued

hydra.core.utils._save_config = save_config  # at import: for jobs of every launcher
Root = TypeVar("Root")


def on_all_devices(devices: Devices, group: str = "") -> Path:
    """Run this job again as one process per device of this machine; returns its run folder.

    Ends the process with the status of the processes if they fail; raises `UserError` if other machines are needed,
    naming the option with its `group`.
    """
    if devices.num_nodes > 1:
        raise UserError(f"{group}num_nodes: start the processes by torchrun on every machine, or by SLURM")
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    words = [*as_given(hydra_config.overrides.task), to_folder("hydra.run.dir", folder)]
    for source in hydra_config.runtime.config_sources:
        if source.provider == "command-line":
            words = ["--config-dir", source.path, *words]
    status = ranks.torchrun(hydra_config.job.name, words, devices.devices)
    if status:
        sys.exit(status if status > 0 else 128 - status)
    return folder


def launch(command: str, root: type[Root], job: Callable[[Root, DictConfig], object]) -> None:
    """Run `job` with the config `conf/<command>.yaml` and the overrides of this process's command line.

    Ends the process with status 2 and one line on bad input, and where it cannot write.
    """
    name = f"mmsafe.{command}"

    def task(cfg: DictConfig) -> object:
        _leave_the_log_to_the_first()
        with requeued(), told(name), killed_workers():  # here too: submitit starts with the task
            folder = Path(HydraConfig.get().runtime.output_dir)
            with held(folder) if getattr(root, "runs_here", True) else nullcontext():
                allow_plugins(plugins_of(cfg))
                return job(typed(without_hydra(cfg), root), cfg)

    ranks.end_with_parent()
    sys.argv = ["launcher.retry_failed=true" if word == "--retry-failed" else word for word in sys.argv]
    sys.argv = [at_home(word) for word in sys.argv]
    if not ranks.is_first():
        sys.argv += ranks.QUIET
    with told(name):
        check(command, root, sys.argv[1:])
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra would print what goes wrong itself
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()
        except HydraException as error:
            raise UserError(one_line(error)) from error


def _leave_the_log_to_the_first() -> None:
    """Under submitit every process opens the run's log file, because all get the same overrides."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and not ranks.is_first():
            root.removeHandler(handler)
            handler.close()
