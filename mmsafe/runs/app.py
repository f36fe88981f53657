"""How every command starts: read the words, check, compose, run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.command_line import words_typed
from mmsafe.core.config import allow_plugins, plugins_of, typed, without_hydra
from mmsafe.core.endings import killed_workers, told
from mmsafe.core.errors import UserError
from mmsafe.core.run_lock import held
from mmsafe.core.settings import Devices
from mmsafe.runs.help_page import help_page
from mmsafe.runs.hydra_state import arguments, run_context, run_hydra
from mmsafe.runs.old_spelling import as_written_now
from mmsafe.runs.overrides import one_line, readable, to_folder
from mmsafe.runs.preflight import check_arguments
from mmsafe.runs.requeue import requeued
from mmsafe.runs.run_context import RunContext

Root = TypeVar("Root")


def on_all_devices(devices: Devices, run: RunContext, group: str = "", *, exactly: bool = False) -> bool:
    """Run this job again as one process per device of this machine; False if it needs one or is one of several already.

    Ends the process with the status of the processes if they fail. Raises `UserError`, naming the option with its
    `group`, if other machines are needed, or if there have to be `exactly` as many processes and there are not.
    """
    if exactly and ranks.started() and ranks.world_size() != devices.processes:
        wanted = f"{devices.devices} x {group}num_nodes={devices.num_nodes}"
        raise UserError(f"{group}devices={wanted}: torchrun or SLURM started {ranks.world_size()} processes instead")
    if devices.processes == 1 or ranks.started():
        return False
    if devices.num_nodes > 1:
        raise UserError(f"{group}num_nodes: start the processes by torchrun on every machine, or by SLURM")
    folders = [word for folder in run.config_dirs[::-1] for word in ("--config-dir", folder)]
    words = [*folders, *run.overrides, to_folder("hydra.run.dir", run.folder)]
    status = ranks.torchrun(run.command, words, devices.devices)
    if status:
        sys.exit(status if status > 0 else 128 - status)
    return True


def entry_point(command: str, root: type[Root], job: Callable[[Root, RunContext], object]) -> Callable[..., None]:
    """The `main` of a command, which runs `job` with the config `conf/<command>.yaml` as the command line changes it.

    It takes other words in their place, and ends the process with status 2 and one line on bad input, and where it
    cannot write.
    """

    def main(words: Sequence[str] | None = None) -> None:
        with told(f"mmsafe.{command}"):
            launch(command, root, job, words_typed() if words is None else words)

    return main


def launch(command: str, root: type[Root], job: Callable[[Root, RunContext], object], words: Sequence[str]) -> None:
    """Read `words`, check every job that they ask for, and run them, or print the help."""

    def task(cfg: DictConfig) -> object:
        _leave_the_log_to_the_first()
        with requeued(), told(f"mmsafe.{command}"), killed_workers():  # here too: submitit starts with the task
            run = run_context(cfg)
            with held(run.folder) if getattr(root, "runs_here", True) else nullcontext():
                allow_plugins(plugins_of(cfg))
                return job(typed(without_hydra(cfg), root), run)

    ranks.end_with_parent()
    old = getattr(root, "old_spelling", {})
    args = arguments([readable(word) for word in words], [flag for flag in old if flag])
    if args.help:
        print(help_page(command, args.overrides, args.config_dir))
        return
    args.overrides = as_written_now(command, args, old)
    if not ranks.is_first():
        args.overrides += ranks.QUIET
    check_arguments(command, root, args)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra would print what goes wrong itself
    try:
        run_hydra(command, args, task)
    except HydraException as error:
        raise UserError(one_line(error)) from error


def _leave_the_log_to_the_first() -> None:
    """Under submitit every process opens the run's log file, because all get the same overrides."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler) and not ranks.is_first():
            root.removeHandler(handler)
            handler.close()
