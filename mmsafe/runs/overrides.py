"""Whether overrides name choices and options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmsafe.core.command_line import quoted
from mmsafe.core.config import suggestion, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.runs.launchers import check_installed


def key_of(override: Override) -> str:
    """The group or the dotted option that it sets."""
    return str(override.key_or_group)


def as_given(overrides: ListConfig | list[str]) -> list[str]:
    """Overrides of Hydra's node as they were typed: what they name in the environment may be a secret."""
    assert isinstance(overrides, ListConfig)  # whatever the class that types the node says
    return cast("list[str]", OmegaConf.to_container(overrides, resolve=False))


def to_folder(option: str, folder: Path) -> str:
    """The override that sets `option` to a folder of any name."""
    return f"{option}={quoted(folder)}"


def readable(word: str) -> str:
    """An override in which a text with `=`, and a bare `~` for the user's folder, are as Hydra can read them.

    A quoted `~` is left to the options; but Hydra's own would make a folder of this name.
    """
    key, _, value = word.partition("=")
    path = value.strip("'\"") if key.lstrip("+") in ("hydra.run.dir", "hydra.sweep.dir") else value
    if path.startswith("~/"):
        return to_folder(key, Path(path).expanduser())
    if "=" in value and not set("'\"\\{($ ").intersection(value):
        return f"{key}=" + re.sub(r"[^\[\],]*=[^\[\],]*", r"'\g<0>'", value)
    return word


def quoting(word: str, parser: OverridesParser) -> str:
    """How to type an override that cannot be read in a shell if its value is text, to end a message with."""
    key, equals, value = word.partition("=")
    told = f"{key}=" + '"{}"'.format(value.replace('"', '\\"'))
    try:
        same = parser.parse_override(told).value() == value
    except HydraException:
        same = False
    perhaps_list = "," in value or value.startswith(("[", "{", "'", '"'))  # of which only parts may be text
    if perhaps_list or not same or not value.isprintable():
        told = f'{key}="…"'
    return f"; text with such characters needs quotes: {shlex.quote(told)}" if key and equals else ""


def one_line(text: object) -> str:
    """A message of Hydra's without its line breaks."""
    return " ".join(str(text).split("\n    full_key")[0].split())


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of a job, Hydra's own node in it; raises `UserError` if it cannot be composed."""
    try:
        return compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise UserError(f"{one_line(' '.join(overrides))}: {one_line(error)}") from error


def check_choice(override: Override, loader: ConfigLoader) -> None:
    """Raise `UserError` if its group has no such option."""
    group, value = key_of(override), override.value()
    options = loader.get_group_options(group, ObjectType.CONFIG)
    for name in value if isinstance(value, list) else [value]:
        if group == "hydra/launcher":
            check_installed(str(name), options)
        if isinstance(name, str) and name not in options and not override.is_delete():
            is_data = group == "benchmark" and name in loader.get_group_options("data", ObjectType.CONFIG)
            hint = f"; to ask what the data ask: benchmark=own_prompts data={name}" if is_data else ""
            raise UserError(f"{group}={name}: no such {group}{hint or suggestion(name, options)}")


def check_key(override: Override, base: DictConfig, groups: list[str]) -> None:
    """Raise `UserError` unless a plain override names an option that the groups chosen in `base` have."""
    node: Any = base
    parts = key_of(override).split(".")
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
