"""Checks the whole command line before anything heavy is imported, and for a multirun every job before job 0."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmsafe.config import conf_dir, resolved, suggestion, typed, without_hydra
from mmsafe.errors import UserError
from mmsafe.launchers import check_installed, check_launch
from mmsafe.reporting.runs import refuse_other_config


def check(config_name: str, root: type[Any], argv: Sequence[str]) -> None:
    """Compose and validate every job of the command `argv`; raises `UserError` on the first problem.

    Calls that run no job (`--help`, `--cfg`, …) are left to Hydra.
    """
    args = get_args_parser().parse_args(list(argv))
    if args.help or args.hydra_help or args.shell_completion or args.info or args.cfg:
        return
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2(config_name, _search_path(args.config_dir))
        for job in _jobs(args.overrides, args.multirun):
            _check_job(args.config_name or config_name, root, job, args.multirun)
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


def _jobs(overrides: list[str], multirun: bool) -> list[list[str]]:
    """The overrides of each job, expanded as Hydra's own sweeper does."""
    try:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(overrides)
        if multirun:
            (jobs,) = BasicSweeper.split_arguments(parsed, None)
            if not jobs:
                raise UserError(f"{' '.join(overrides)}: makes no job, because one of the sweeps is empty")
            return [list(job) for job in jobs]
    except (HydraException, ValueError, AssertionError) as error:
        raise UserError(f"cannot read {_one_line(' '.join(overrides))}: {_one_line(error)}") from error
    sweeps = [o.input_line for o in parsed if o.is_sweep_override()]
    if sweeps:
        raise UserError(f"{sweeps[0]}: several values need a sweep; add -m (or quote a list as [a,b])")
    return [overrides]


def _check_job(config_name: str, root: type[Any], overrides: list[str], multirun: bool) -> None:
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    groups = _groups(loader)
    choices = [o for o in parsed if _group(o) in groups]
    for override in choices:
        _check_choice(override, loader)
    base = _compose(config_name, [o.input_line or "" for o in choices])
    for override in parsed:
        if _group(override) not in groups and not override.is_add():
            _check_key(override, base, groups)
    cfg = _compose(config_name, overrides)
    typed(without_hydra(cfg), root)
    check_launch(cfg, multirun)
    folder = [o.value() for o in parsed if _group(o) == "hydra.run.dir"]
    if folder and not multirun:  # Hydra would write over the folder's own record before the job could refuse it
        refuse_other_config(Path(str(folder[-1])), resolved(cfg))


def _group(override: Override) -> str:
    return str(override.key_or_group)


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise UserError(f"{_one_line(' '.join(overrides))}: {_one_line(error)}") from error


def _one_line(text: object) -> str:
    return " ".join(str(text).split("\n    full_key")[0].split())


def _groups(loader: ConfigLoader, parent: str = "") -> list[str]:
    """All config groups, nested ones as `a/b`."""
    found = []
    for name in loader.get_group_options(parent, ObjectType.GROUP):
        path = f"{parent}/{name}" if parent else name
        found += [path, *_groups(loader, path)]
    return found


def _check_choice(override: Override, loader: ConfigLoader) -> None:
    group, value = _group(override), override.value()
    options = loader.get_group_options(group, ObjectType.CONFIG)
    for name in value if isinstance(value, list) else [value]:
        if group == "hydra/launcher":
            check_installed(str(name), options)
        if isinstance(name, str) and name not in options and not override.is_delete():
            raise UserError(f"{group}={name}: no such {group}{suggestion(name, options)}")


def _check_key(override: Override, base: DictConfig, groups: list[str]) -> None:
    """A plain override must name an option that the chosen groups have."""
    node: Any = base
    parts = _group(override).split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.is_list(node):
            return
        if not OmegaConf.is_dict(node) or part not in list(node):  # `in node` is false for a value that is ???
            raise UserError(_unknown_key(parts, depth, node, base, groups))
        node = node._get_node(part)
        if node is None or (OmegaConf.is_interpolation(node) and depth + 1 < len(parts)):
            return


def _unknown_key(parts: list[str], depth: int, node: Any, base: DictConfig, groups: list[str]) -> str:
    key, part = ".".join(parts), parts[depth]
    if depth == 0:
        known = sorted({str(name) for name in [*base, *groups] if not str(name).startswith("hydra")})
        elsewhere = [path for path in _paths(without_hydra(base)) if path.endswith(f".{key}")]
        if elsewhere:
            return f"{key}: there is no option '{part}'; did you mean '{elsewhere[0]}'?"
        return f"{key}: there is no option '{part}'{suggestion(part, known)}"
    owner = ".".join(parts[:depth])
    chosen = OmegaConf.select(base, f"hydra.runtime.choices.{owner}")
    known = [str(name) for name in node if name != "_target_"] if OmegaConf.is_dict(node) else []
    return f"{key}: {owner}{f'={chosen}' if chosen else ''} has no option '{part}'{suggestion(part, known)}"


def _paths(node: DictConfig, prefix: str = "") -> list[str]:
    """Dotted names of all options."""
    found = []
    for name in map(str, node):
        path, value = f"{prefix}{name}", node._get_node(name)
        found += [path, *(_paths(value, f"{path}.") if isinstance(value, DictConfig) else [])]
    return found


def report(error: UserError, command: str) -> None:
    """Print the one line that a user is meant to read."""
    print(f"{command}: {error}", file=sys.stderr)
