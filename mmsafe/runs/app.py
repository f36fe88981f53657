"""How every command starts: read the words, check, compose, run."""

import json
import logging
import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TypeVar

from hydra.errors import HydraException
from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.command_line import as_text, words_typed
from mmsafe.core.config import allow_plugins, conf_dir, plugins_of, typed, without_hydra
from mmsafe.core.endings import clean_exit, killed_workers, report
from mmsafe.core.errors import UserError
from mmsafe.core.run_lock import held
from mmsafe.core.settings import Devices
from mmsafe.core.terminal import VERBOSITY, shown
from mmsafe.runs.help_page import help_page
from mmsafe.runs.hydra_state import arguments, run_context, run_hydra
from mmsafe.runs.overrides import as_hydra_reads, one_line, to_folder
from mmsafe.runs.preflight import check_arguments
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.schema import schema_of

Root = TypeVar("Root")
Job = Callable[[Root, RunContext], object]
Around = Callable[[RunContext], AbstractContextManager[None]]


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


def entry_point(command: str, root: type[Root], job: Job[Root]) -> Callable[..., None]:
    """The `main` of a command, which runs `job` with the config `conf/<command>.yaml` as the command line changes it.

    It takes other words in their place, and ends the process with status 2 and one line on bad input, and where it
    cannot write.
    """

    def main(words: Sequence[str] | None = None) -> None:
        program = f"mmsafe.{command}"
        with clean_exit(program):
            launch(command, root, job, words_typed() if words is None else words, lambda _: clean_exit(program))

    return main


def launch(command: str, root: type[Root], job: Job[Root], words: Sequence[str], around: Around) -> None:
    """Read `words`, check every job that they ask for, and run each within `around`, or print the help."""

    def task(cfg: DictConfig) -> object:
        _leave_the_log_to_the_first()
        run = run_context(cfg)
        plugins, here = plugins_of(cfg), held(run.folder) if getattr(root, "runs_here", True) else nullcontext()
        logs = shown(cfg.get(VERBOSITY, "normal"), plugins)
        with requeued(), around(run), killed_workers(), logs, here:  # around this, too: submitit starts with the task
            allow_plugins(plugins)
            return job(typed(without_hydra(cfg), root), run)

    ranks.end_with_parent()
    old = getattr(root, "old_spelling", {})
    args = arguments(as_hydra_reads(words), [flag for flag in old if flag])
    if args.help:
        print(help_page(command, args.overrides, args.config_dir))
        return
    if args.schema:
        print(json.dumps(schema_of(command, root, args.overrides, args.config_dir), indent=1))
        return
    if args.shell_completion and args.overrides == ["install=bash"]:
        print((conf_dir() / "completion.bash").read_text(encoding="utf-8"))  # Hydra's knows no sub-commands
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


@contextmanager
def requeued() -> Iterator[None]:
    """Around a job: SIGUSR2 first stops it as SIGTERM does, and submitit's own handler runs when all is saved.

    submitit would queue the job again at once, in the middle of a step. Where it has no handler, nothing changes.
    """
    queue_again = signal.getsignal(signal.SIGUSR2)
    if not callable(queue_again):
        yield
        return
    signals: list[tuple[int, FrameType | None]] = []

    def time_is_up(number: int, frame: FrameType | None) -> None:
        signals.append((number, frame))
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGUSR2, time_is_up)
    try:
        yield
    except SystemExit:
        if signals and ranks.is_first():
            queue_again(*signals[0])
        if signals:
            sys.exit(0)  # another status would make some clusters kill the first process, which has yet to act
        raise
    finally:
        signal.signal(signal.SIGUSR2, queue_again)


def as_written_now(command: str, args: Namespace, old: Mapping[str, str]) -> list[str]:
    """The overrides in `args`, and in place of old flags and words without `=` those that they stand for.

    `old` has, by flag and under "" for such words, the override in which `{}` is the values. Says on stderr what to
    write now, if there are any: for one release.
    """
    words = [word for word in args.overrides if "=" in word or word.startswith("~") or "" not in old]
    values = {flag: vars(args)[flag] for flag in old if flag} | {"": [w for w in args.overrides if w not in words]}
    now = [template.format(",".join(map(as_text, values[flag]))) for flag, template in old.items() if values[flag]]
    if now:
        line = shlex.join(["python", "-m", f"mmsafe.{command}", *now, *words])
        report(f"this spelling ends with the next release; write: {line}", f"mmsafe.{command}")
    return [*now, *words]
