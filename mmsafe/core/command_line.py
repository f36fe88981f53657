"""The command line of this process; nothing else looks at it."""

from __future__ import annotations

import sys
from pathlib import Path


def words_typed() -> list[str]:
    """What stands after the name of the program."""
    return sys.argv[1:]


def program() -> str:
    """The name of the program: `mmsafe`, or the file of a module that was started by `python -m`."""
    return Path(sys.argv[0]).name
