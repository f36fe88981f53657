"""Options are dataclasses that validate themselves, from Python as from YAML.

A class decorated with `options` is what a `_target_` in `conf/` names: its fields are the group's options, with their
types and ranges. Importing such a class must stay cheap (no torch), because every command checks its whole config
before it imports anything heavy.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that refuses unknown keys, wrong types and values out of range."""
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return cast("type[T]", dataclass(frozen=True, kw_only=True, config=config)(cls))


MISSING = "missing_input"
HUB_NAME = re.compile(r"(?!.*\.(?:jsonl?|gz|csv|parquet|arrow)$)[\w-][\w.-]*/[\w-][\w.-]*")
"""Of a data set, `owner/name`; what ends like a file of rows is none."""
_must_exist: ContextVar[bool] = ContextVar("must_exist", default=False)


@contextmanager
def inputs_must_exist() -> Iterator[None]:
    """Options built in the block refuse what is not there: those of a command, but not those of a run long past."""
    token = _must_exist.set(True)
    try:
        yield
    finally:
        _must_exist.reset(token)


P = TypeVar("P", str, Path)


def home(path: P) -> P:
    """The path with the user's folder in place of `~`."""
    return type(path)(os.path.expanduser(path))


def existing(path: P) -> P:
    """The path of a file or folder that is read, with `~` replaced; refused if it has to exist and does not."""
    path = home(path)
    _refuse(path, "folder or file", not os.path.exists(path))
    return path


def as_list(value: object) -> object:
    """A single text as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def _checkpoint(name: str) -> str:
    path = home(name)
    _refuse(path, "folder", not os.path.isdir(path) and (path.startswith((".", "/")) or path.count("/") != 1))
    return path


def _data(path: Path) -> Path:
    path = home(path)
    _refuse(path, "folder or file", not os.path.exists(path) and not HUB_NAME.fullmatch(str(path)))
    return path


def _refuse(path: str | Path, what: str, missing: bool) -> None:
    if missing and _must_exist.get():
        raise PydanticCustomError(MISSING, f"no such {what}" + ("" if os.path.isabs(path) else f" in {os.getcwd()}"))


InputPath = Annotated[Path, AfterValidator(existing)]
"""A file or folder that is read; `~` is the user's, and what is not there is refused before anything is done."""
DataPath = Annotated[Path, AfterValidator(_data)]
"""A file or folder of rows, or the name `owner/name` of a data set of the hub, which is fetched when it is read."""
InputName = Annotated[str, AfterValidator(existing)]
"""The path of a file or folder that is read, as a string."""
CheckpointName = Annotated[str, AfterValidator(_checkpoint)]
"""A folder that is read, or a hub name `owner/name`."""
OutputPath = Annotated[Path, AfterValidator(home)]
"""A file or folder that is written; `~` is the user's."""
RunPaths = Annotated[list[OutputPath], BeforeValidator(as_list), Field(min_length=1)]
"""Run folders, sweep folders, or folders above them; one of them may stand without brackets."""
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes: NumPy's are the narrowest."""
