"""Calls that find the weights of a module whole where a strategy keeps them in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def gathering(module: Any, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)` as the forward of `module`: ZeRO-3 and FSDP gather a module's own weights when it is called.

    Without that, a function that reads a weight of a module outside its forward finds an empty one.
    """
    module.forward = function
    try:
        return module(*inputs)
    finally:
        del module.forward
