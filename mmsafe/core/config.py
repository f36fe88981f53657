"""Where `conf/` is, and how a composed config becomes typed options."""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from inspect import isabstract
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from mmsafe.core.errors import UserError
from mmsafe.core.options import MISSING
from mmsafe.core.secrets import masked
from mmsafe.core.terminal import VERBOSITY

Root = TypeVar("Root")
TARGET = "_target_"
STARTING = ("hydra", "launcher", "search")
"""Nodes that say how jobs are started and chosen, not what a job does: Hydra's own, and two beside it."""
PLUGINS = "plugins"
"""The node that names packages of the user's own. It is no option of the job, so no run folder can bring one."""
SHOWN = ("trainer.progress_bar", "data.num_workers", VERBOSITY)
"""Options that change no result: a run can be continued with other ones."""
_allowed: tuple[str, ...] = ()


def allow_plugins(packages: Any) -> None:
    """From here on a `_target_` may also name classes of `packages`, in place of those allowed before.

    They hold for this process, because the configs that it reads may be a run folder's as well as its own. Raises
    `UserError` if they are no list of names.
    """
    global _allowed
    if not isinstance(packages, list | tuple) or not all(map(_is_dotted_name, packages)):
        raise UserError(f"{PLUGINS}={packages}: is no list of packages, such as {PLUGINS}=[mine]")
    _allowed = tuple(packages)


def conf_dir() -> Path:
    """The folder of config groups: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise UserError(f"no conf/ folder inside or beside {package}: the installation is incomplete, reinstall mmsafe")


def typed(cfg: DictConfig, root: type[Root]) -> Root:
    """Resolve `cfg` and build `root` from it, every node with a `_target_` by the class that it names.

    Raises `UserError` naming the option for an unknown key, a wrong type or a value out of range.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise UserError(f"{key}: {_first_line(error)}") from error
    assert isinstance(plain, dict)
    return recorded(cast("dict[str, Any]", plain), root)


def recorded(config: Mapping[str, Any], root: type[Root]) -> Root:
    """The same from plain values, as a run folder has them, in which nothing is resolved."""
    return _checked(root, {key: built(value, key) for key, value in config.items()}, "")


def built(value: Any, path: str) -> Any:
    """Build nodes with a `_target_`, at any depth of plain groups; `path` is what an error calls the node."""
    if not isinstance(value, dict):
        return value
    if TARGET not in value:
        return {key: built(item, f"{path}.{key}") for key, item in value.items()}
    options = {key: item for key, item in value.items() if key != TARGET}
    return _checked(options_class(value[TARGET], path), options, path, strict=True)


def each_built(option: str) -> Callable[[Any], Any]:
    """Builds what the dict of this option holds by names of the user's choice; a complaint of a part begins with it."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        parts = {}
        for name, part in value.items():
            with named(f"{option}.{name}"):
                parts[name] = built(part, f"{option}.{name}")
        return parts

    return read


@contextmanager
def named(place: str) -> Iterator[None]:
    """A complaint in the block begins with its place."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith(place) else UserError(f"{place}: {error}") from error


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The config of the job itself: without Hydra's node, whose interpolations are resolved in a job only."""
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in (*STARTING, PLUGINS, VERBOSITY)])
    OmegaConf.set_struct(plain, True)
    return plain


def plugins_of(cfg: DictConfig) -> Any:
    """What a command's config names in `plugins`, as it stands there."""
    packages = cfg.get(PLUGINS, [])
    return OmegaConf.to_container(packages, resolve=True) if OmegaConf.is_list(packages) else packages


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config of a job as plain values to record: without Hydra's own node, and without secrets."""
    return cast("dict[str, Any]", masked(OmegaConf.to_container(without_hydra(cfg), resolve=True)))


def suggestion(word: str, known: Iterable[str], *, listed: bool = True) -> str:
    """`; did you mean 'x'?`, or else the list of what is known, if that is to be `listed`."""
    known = list(known)
    if close := get_close_matches(word, known, n=1, cutoff=0.55):
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}" if known and listed else ""


def options_class(name: Any, path: str) -> type[Any]:
    """The options class that a `_target_` names.

    A config may come from a stranger's run folder, so nothing is imported that is not from `mmsafe` or allowed, and
    nothing is called that is not an options class defined there: what a module merely imports is not.
    """
    named = f"{path}.{TARGET}={name if _is_dotted_name(name) else repr(str(name)[:100])}"
    module, _, attribute = str(name).rpartition(".")
    if not module or not _is_dotted_name(name):
        raise UserError(f"{named}: is not the name of a class, such as mmsafe.core.settings.Lengths")
    _refuse_foreign(module, named)
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        now = _shipped().get(attribute, name) if module.startswith("mmsafe.") else name
        if now != name:
            return options_class(now, path)
        raise UserError(f"{named}: cannot be imported ({_first_line(error)})") from error
    if not (isinstance(cls, type) and is_pydantic_dataclass(cls)):
        raise UserError(f"{named}: is not a class of options, which mmsafe.core.options.options makes")
    _refuse_foreign(cls.__module__, named)
    return cls


@cache
def _shipped() -> dict[str, str]:
    """The classes that `conf/` names, by their own name: runs of earlier versions recorded them in other modules."""
    texts = [file.read_text(encoding="utf-8") for file in conf_dir().rglob("*.yaml")]
    return {name.rpartition(".")[2]: name for text in texts for name in re.findall(r"_target_: (mmsafe\.\S+)", text)}


def _refuse_foreign(module: str, named: str) -> None:
    """Raise `UserError` unless `module` is one of `mmsafe`'s or of an allowed package."""
    if not any(f"{module}.".startswith(f"{package}.") for package in ("mmsafe", *_allowed)):
        package = module.partition(".")[0]
        raise UserError(
            f"{named}: only classes of mmsafe are imported; if you trust the package {package}, "
            f"add {PLUGINS}=[{package}]"
        )


def _is_dotted_name(text: Any) -> bool:
    return isinstance(text, str) and all(part.isidentifier() for part in text.split("."))


def _checked(cls: type[Root], options: dict[str, Any], path: str, *, strict: bool = False) -> Root:
    """Validate; strict JSON rules fit YAML: a number is not a string, a bool is not a number, a path is a string."""
    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        _refuse_nameless(field.annotation, options.get(name), f"{path}.{name}" if path else name)
    try:
        if strict:
            return TypeAdapter(cls).validate_json(json.dumps(options), strict=True)
        return cls(**options)
    except ValidationError as error:
        raise UserError(_explain(error, cls, options, path)) from error


def _refuse_nameless(hint: Any, value: Any, path: str) -> None:
    """Raise `UserError` where options lack the name of their class, and `hint` leaves open which it is."""
    if not isinstance(value, dict) or TARGET in value:  # some options build their parts themselves
        return
    if get_origin(hint) is dict:
        for name, part in value.items():
            _refuse_nameless(get_args(hint)[1], part, f"{path}.{name}")
    elif any(isabstract(choice) for choice in (hint, *get_args(hint))):
        raise UserError(f"{path}: the YAML file of this choice has no line `{TARGET}: …`, which names its class")


def _explain(error: ValidationError, cls: type[Any], options: Mapping[str, Any], path: str) -> str:
    """The first problem in one line, and how many there are besides."""
    first, *others = error.errors()
    key = ".".join([*([path] if path else []), *map(str, first["loc"])])
    known = [name for name in getattr(cls, "__pydantic_fields__", {}) if name != key]
    value = first.get("input")
    shown = f"={json.dumps(value, default=str)}" if isinstance(value, str | int | float | bool | list | None) else ""
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        text = f"{key}: {cls.__name__} has no such option{suggestion(str(first['loc'][-1]), known)}"
    elif first["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        text = f"{key}: must be set"
    elif first["type"] == MISSING:
        text = f"{key}={value}: {first['msg']}"
    elif first["type"] == "literal_error":
        choices = [choice.strip("'") for choice in first["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        text = f"{key}{shown}: must be one of {', '.join(choices)}{suggestion(str(value), choices, listed=False)}"
    else:
        problem = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        text = f"{key}{shown}: {problem}" if key else problem
    return text + (f" (and {len(others)} more)" if others else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
