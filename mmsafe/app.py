"""How every command starts: check, compose, run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmsafe import ranks
from mmsafe.config import conf_dir, typed, without_hydra
from mmsafe.errors import UserError
from mmsafe.overrides import as_given, at_home, to_folder
from mmsafe.preflight import check, report
from mmsafe.requeue import requeued
from mmsafe.settings import Devices
from mmsafe.signals import ended_at_once

Root = TypeVar("Root")
BAD_INPUT = 2


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

    Ends the process with status 2 and one line on bad input.
    """

    def task(cfg: DictConfig) -> object:
        _leave_the_log_to_the_first()
        try:
            with requeued(), ended_at_once():  # here too: submitit starts with the task
                return job(typed(without_hydra(cfg), root), cfg)
        except UserError as error:
            report(error, f"mmsafe.{command}")
            sys.exit(BAD_INPUT)

    sys.argv = ["launcher.retry_failed=true" if word == "--retry-failed" else word for word in sys.argv]
    sys.argv = [at_home(word) for word in sys.argv]
    if not ranks.is_first():
        sys.argv += ranks.QUIET
    try:
        with ended_at_once():
            check(command, root, sys.argv[1:])
            folder = str(conf_dir())
    except UserError as error:
        report(error, f"mmsafe.{command}")
        sys.exit(BAD_INPUT)
    with ended_at_once():
        hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()


def _leave_the_log_to_the_first() -> None:
    """Under submitit every process opens the run's log file, because all get the same overrides."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and not ranks.is_first():
            root.removeHandler(handler)
            handler.close()
