"""Checks the whole command line before anything heavy is imported, and for a multirun every job before job 0."""

import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mmsafe.core.config import allow_plugins, plugins_of, resolved, typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.core.options import inputs_must_exist
from mmsafe.core.run_lock import refuse_held
from mmsafe.core.terminal import VERBOSITY, check_verbosity
from mmsafe.runs.expansion import SweepPlan, plan
from mmsafe.runs.hydra_state import all_groups, arguments, composing
from mmsafe.runs.launchers import check_launch
from mmsafe.runs.overrides import as_hydra_reads, composed, explained, key_of, parsed
from mmsafe.runs.run_folder import refuse_other_config
from mmsafe.runs.search_options import check_search, search_options

OUTPUT = ("hydra.run.dir", "hydra.sweep.dir")
"""Where a command writes."""


def check(config_name: str, root: type[Any], argv: Sequence[str]) -> list[Any]:
    """Compose and validate every job of the command `argv`; raises `UserError` on the first problem.

    Returns the options of each. Calls that run no job (`--help`, `--cfg`, …) are left to Hydra.
    """
    return check_arguments(config_name, root, arguments(as_hydra_reads(argv)))


def check_arguments(config_name: str, root: type[Any], args: Namespace) -> list[Any]:
    """The same for a command line that has been read, of which `args.multirun` is set where a preset makes a sweep."""
    if args.help or args.schema or args.hydra_help or args.shell_completion or args.info or args.cfg:
        return []
    name = args.config_name or config_name
    with composing(config_name, args.config_dir):
        sweep_plan = plan(name, args.overrides)
        args.multirun = multirun = args.multirun or sweep_plan.is_multirun
        checked = [_check_job(sweep_plan, root, job, multirun) for job in _jobs(sweep_plan, args.overrides, multirun)]
        with inputs_must_exist() if getattr(root, "runs_here", True) else nullcontext():  # last: the smallest mistake
            return [typed(cfg, root) for cfg in checked]


def _jobs(sweep_plan: SweepPlan, overrides: list[str], multirun: bool) -> list[list[str]]:
    """The overrides of each job, of a sweep or of a single one."""
    if multirun:
        return [[*sweep_plan.starting, *job] for job in sweep_plan.jobs()]
    sweeps = [override.input_line for override in sweep_plan.overrides if override.is_sweep_override()]
    if sweeps:
        raise UserError(
            f"{sweeps[0]}: several values need a sweep; add -m (or quote a list as [a,b], a text as '\"a,b\"')"
        )
    return [overrides]


def _check_job(sweep_plan: SweepPlan, root: type[Any], overrides: list[str], multirun: bool) -> DictConfig:
    """The config of a job, which can be run if the files are there that it names."""
    words, groups = parsed(overrides), all_groups()
    if all(key_of(word) in groups for word in words):
        cfg = deepcopy(sweep_plan.base(words, groups))
    else:
        with explained(words, partial(sweep_plan.base, words, groups), groups):
            cfg = composed(sweep_plan.config_name, overrides)
    allow_plugins(plugins_of(cfg))
    check_verbosity(cfg.get(VERBOSITY, "normal"))
    config = typed(without_hydra(cfg), root)
    if "search" in cfg:
        check_search(config, search_options(cfg))
    check_launch(cfg, multirun, [key_of(word) for word in words])
    if getattr(root, "runs_here", True):
        _refuse_read_only([str(word.value()) for word in words if key_of(word) in OUTPUT])
    folder = [word.value() for word in words if key_of(word) == "hydra.run.dir"]
    if folder and not multirun:  # Hydra would write over the folder's own record before the job could refuse it
        refuse_held(Path(str(folder[-1])))
        refuse_other_config(Path(str(folder[-1])), resolved(cfg))
    for option in getattr(config, "unread", ()):
        if OmegaConf.select(cfg, option) is not None:
            OmegaConf.update(cfg, option, None)
    return without_hydra(cfg)


def _refuse_read_only(chosen: Sequence[str]) -> None:
    """A folder that cannot be made is told before anything is imported."""
    folder = Path(chosen[-1] if chosen else ".").absolute()
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not os.access(there, os.W_OK, effective_ids=True):
        raise UserError(f"{there}: cannot be written; choose another place by hydra.run.dir")
