"""The old place of `mmsafe.microworld.tiny`, for scripts that import it from here; gone after one release."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("mmsafe.microworld.tiny"), name)  # a name in a text: nothing here may rest on it
