"""mmsafe: an experiment framework for making multimodal assistants harmless; docs/api.md has its Python API.

Nothing is imported before it is asked for; commands are functions, too (docs/adr/0021-a-command-is-a-function-too.md).
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
_COMMANDS = ("train", "evaluate", "blind")
__all__ = [*_COMMANDS, "Run", "UserError", "load", "read_samples", "score"]


class _Command(ModuleType):
    """The module of a command, called as the function of its name in `mmsafe.api`."""

    @property
    def __wrapped__(self) -> Any:  # whose signature `inspect` shows
        return getattr(import_module("mmsafe.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__wrapped__(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:  # so Python binds a submodule, whatever imported it
        if name in _COMMANDS and type(value) is ModuleType:
            value.__class__ = _Command
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mmsafe' has no attribute '{name}'")
    return import_module(f"mmsafe.{name}") if name in _COMMANDS else getattr(import_module("mmsafe.api"), name)


sys.modules[__name__].__class__ = _Package
