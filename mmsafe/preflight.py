"""Checks the whole command line before anything heavy is imported, and for a multirun every job before job 0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mmsafe.config import allow_plugins, built, conf_dir, plugins_of, resolved, typed, without_hydra
from mmsafe.errors import UserError
from mmsafe.launchers import check_launch
from mmsafe.options import inputs_must_exist
from mmsafe.overrides import all_groups, check_choice, check_key, composed, key_of
from mmsafe.reporting.runs import refuse_other_config
from mmsafe.run_lock import refuse_held
from mmsafe.sweeps.expansion import parsed, plan
from mmsafe.sweeps.holdout import check_search

OUTPUT = ("hydra.run.dir", "hydra.sweep.dir")
"""Where a command writes."""


def check(config_name: str, root: type[Any], argv: Sequence[str]) -> None:
    """Compose and validate every job of the command `argv`; raises `UserError` on the first problem.

    Calls that run no job (`--help`, `--cfg`, …) are left to Hydra.
    """
    args = get_args_parser().parse_args(list(argv))
    if args.experimental_rerun:
        raise UserError("--experimental-rerun: reads a pickle, which can run any code; give the same command again")
    if args.help or args.hydra_help or args.shell_completion or args.info or args.cfg:
        return
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2(config_name, _search_path(args.config_dir))
        jobs, multirun = _jobs(args.config_name or config_name, args.overrides, args.multirun)
        checked = [_check_job(args.config_name or config_name, root, job, multirun) for job in jobs]
        if getattr(root, "runs_here", True):
            with inputs_must_exist():  # last: a missing file is the smallest mistake
                for cfg in checked:
                    typed(cfg, root)
    finally:
        GlobalHydra.instance().clear()


def _search_path(user_dir: str | None) -> ConfigSearchPath:
    """Our `conf/`, then the user's `--config-dir`, as Hydra itself orders them."""
    path = create_config_search_path(str(conf_dir()))
    if user_dir is not None:
        folder = Path(user_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {user_dir}: no such folder")
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    return path


def _jobs(config_name: str, overrides: list[str], multirun: bool) -> tuple[list[list[str]], bool]:
    """The overrides of each job, and whether they are jobs of a sweep, which a preset can make of the command."""
    asked = plan(config_name, overrides)
    if multirun or asked.is_multirun:
        return [[*asked.starting, *job] for job in asked.jobs()], True
    sweeps = [override.input_line for override in asked.overrides if override.is_sweep_override()]
    if sweeps:
        raise UserError(
            f"{sweeps[0]}: several values need a sweep; add -m (or quote a list as [a,b], a text as '\"a,b\"')"
        )
    return [overrides], False


def _check_job(config_name: str, root: type[Any], overrides: list[str], multirun: bool) -> DictConfig:
    """The config of a job, which can be run if the files are there that it names."""
    loader = GlobalHydra.instance().config_loader()
    words = parsed(overrides, loader)
    groups = all_groups(loader)
    choices = [word for word in words if key_of(word) in groups]
    for word in choices:
        check_choice(word, loader)
    base = composed(config_name, [word.input_line or "" for word in choices])
    for word in words:
        if key_of(word) not in groups and not word.is_add():
            check_key(word, base, groups)
    cfg = base if choices == words else composed(config_name, overrides)
    allow_plugins(plugins_of(cfg))
    config = typed(without_hydra(cfg), root)
    if "search" in cfg:
        built(OmegaConf.to_container(cfg.search, resolve=True), "search")
        check_search(config)
    check_launch(cfg, multirun, [key_of(word) for word in words])
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
