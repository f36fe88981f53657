"""Overrides as Hydra reads them, and whether they name choices and options that there are."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmsafe.core.command_line import quoted
from mmsafe.core.config import suggestion, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.runs.hydra_state import config_loader
from mmsafe.runs.launchers import SUBMITIT

PANEL = re.compile(r"judge=\[([^\[\]]*)\]")


def key_of(override: Override) -> str:
    """The group or the dotted option that it sets."""
    return str(override.key_or_group)


def lines(overrides: Iterable[Override]) -> list[str]:
    """Overrides as they were typed."""
    return [override.input_line or "" for override in overrides]


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


def as_hydra_reads(words: Iterable[str]) -> list[str]:
    """The words of a command line, each `readable`, and `judge=[a,name:b]` as the jury of these judges.

    Hydra itself would lay the judges over one another. Raises `UserError` where members cannot be told apart.
    """
    read: list[str] = []
    for word in map(readable, words):
        panel = PANEL.fullmatch(word)
        members = [member.strip().partition(":") for member in panel[1].split(",")] if panel else []
        names = {name for name, _, _ in members}
        if len(names) < len(members) or not all(map(str.isidentifier, names)):
            raise UserError(f"{word}: name each member by a word of its own, as judge=[first:openai,second:openai]")
        jury = [f"+judge@judge.members.{name}={choice or name}" for name, _, choice in members]
        read += ["judge=jury", *jury] if panel else [word]
    return read


def parsed(overrides: Sequence[str]) -> list[Override]:
    """As Hydra reads them; raises `UserError` that names the first one which it cannot read, and how to quote it."""
    parser = OverridesParser.create(config_loader=config_loader())
    words = []
    for word in overrides:
        with refused(f"cannot read {one_line(word)}", partial(quoting, word, parser)):
            words += parser.parse_overrides([word])
    return words


def quoting(word: str, parser: OverridesParser) -> str:
    """How to type an override that cannot be read in a shell if its value is text, to end a message with."""
    key, equals, value = word.partition("=")
    advice = f"{key}=" + '"{}"'.format(value.replace('"', '\\"'))
    try:
        same = parser.parse_override(advice).value() == value
    except HydraException:
        same = False
    perhaps_list = "," in value or value.startswith(("[", "{", "'", '"'))  # of which only parts may be text
    if perhaps_list or not same or not value.isprintable():
        advice = f'{key}="…"'
    return f"; text with such characters needs quotes: {shlex.quote(advice)}" if key and equals else ""


def one_line(text: object) -> str:
    """A message of Hydra's without its line breaks."""
    return " ".join(str(text).split("\n    full_key")[0].split())


@contextmanager
def refused(what: str, advice: Callable[[], str] = str) -> Iterator[None]:
    """Tells what Hydra raises in the block as `UserError` about `what`, in one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise UserError(f"{one_line(what)}: {one_line(error)}{advice()}") from error


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of a job, Hydra's own node in it; raises `UserError` if it cannot be composed."""
    with refused(" ".join(overrides)):
        return compose(config_name, overrides, return_hydra_config=True)


def check_choices(overrides: Iterable[Override], groups: Sequence[str]) -> None:
    """Raise `UserError` if one of `groups` has no such option as is chosen of it."""
    for override in overrides:
        if key_of(override) in groups:
            _check_choice(override)


def _check_choice(override: Override) -> None:
    group, value, loader = key_of(override), override.value(), config_loader()
    if group == "judge" and isinstance(value, list):
        raise UserError(f"{override.input_line}: a jury is the same for all jobs of a sweep: judge=[a,b] and no more")
    options = loader.get_group_options(group, ObjectType.CONFIG)
    for name in value if isinstance(value, list) else [value]:
        if group == "hydra/launcher" and name in SUBMITIT and "submitit_slurm" not in options:
            raise UserError(f"hydra/launcher={name}: needs submitit; run pip install 'mmsafe[slurm]'")
        if isinstance(name, str) and name not in options and not override.is_delete():
            is_data = group == "benchmark" and name in loader.get_group_options("data", ObjectType.CONFIG)
            hint = f"; to ask what the data ask: benchmark=own_prompts data={name}" if is_data else ""
            raise UserError(f"{group}={name}: no such {group}{hint or suggestion(name, options)}")


def unknown(overrides: Iterable[Override], base: DictConfig, groups: Sequence[str]) -> dict[str, str]:
    """The options that plain overrides name and the groups chosen in `base` lack, with what is wrong with each."""
    plain = [override for override in overrides if key_of(override) not in groups and not override.is_add()]
    problems = {key_of(override): _problem(key_of(override).split("."), base) for override in plain}
    return {key: problem for key, problem in problems.items() if problem}


@contextmanager
def explained(words: Sequence[Override], base: Callable[[], DictConfig], groups: Sequence[str]) -> Iterator[None]:
    """Around composing with `words`: where that fails, it says what `base`, with their choices alone, lacks of them.

    Raises `UserError` for an unknown choice, and for an unknown option behind `++`, with which Hydra would compose.
    """

    def refuse(some: Iterable[Override]) -> None:
        for problem in unknown(some, base(), groups).values():
            raise UserError(problem)

    check_choices(words, groups)
    if forced := [word for word in words if word.is_force_add()]:
        refuse(forced)
    try:
        yield
    except UserError:
        refuse(words)
        raise


def _problem(parts: list[str], base: DictConfig) -> str:
    """What is wrong with the option of this dotted name; empty if `base` has it."""
    node: Any = base
    for depth, part in enumerate(parts):
        if OmegaConf.is_list(node):
            return ""
        if not OmegaConf.is_dict(node) or part not in list(node):  # `in node` is false for a value that is ???
            return _unknown_key(parts, depth, node, base)
        node = node._get_node(part)
        if node is None or (OmegaConf.is_interpolation(node) and depth + 1 < len(parts)):
            return ""
    return ""


def _unknown_key(parts: list[str], depth: int, node: Any, base: DictConfig) -> str:
    key, part = ".".join(parts), parts[depth]
    if depth == 0:
        elsewhere = [path for path in _paths(without_hydra(base)) if path.endswith(f".{key}")]
        if elsewhere:
            return f"{key}: there is no option '{part}'; did you mean '{elsewhere[0]}'?"
        chosen = OmegaConf.select(base, "hydra.runtime.choices")
        known = sorted({str(name) for name in [*base, *chosen] if not str(name).startswith("hydra")})
        return f"{key}: there is no option '{part}'{suggestion(part, known)}"
    owner = ".".join(parts[:depth])
    chosen = OmegaConf.select(base, f"hydra.runtime.choices.{owner}")
    known = [str(name) for name in node if name != "_target_"] if OmegaConf.is_dict(node) else []
    return f"{key}: {owner}{f'={chosen}' if chosen else ''} has no option '{part}'{suggestion(part, known)}"


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options."""
    for name in map(str, node):
        yield f"{prefix}{name}"
        value = node._get_node(name)
        if isinstance(value, DictConfig):
            yield from _paths(value, f"{prefix}{name}.")
