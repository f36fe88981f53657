"""The command line of this process, at which nothing else looks, and text in the words of one, as Hydra reads it."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OTHER_THAN_TEXT = ("null", "true", "false", "nan", "inf")


def words_typed() -> list[str]:
    """What stands after the name of the program."""
    return sys.argv[1:]


def program() -> str:
    """The name of the program: `mmsafe`, or the file of a module that was started by `python -m`."""
    return Path(sys.argv[0]).name


@contextmanager
def as_if_typed(words: Sequence[str]) -> Iterator[None]:
    """Within it, `words` are the command line, the name of the program first."""
    before, sys.argv = sys.argv, list(words)
    try:
        yield
    finally:
        sys.argv = before


def quoted(text: object) -> str:
    """A text of any characters as a value."""
    return "'{}'".format(str(text).replace("\\", "\\\\").replace("'", "\\'"))


def as_text(text: object) -> str:
    """The same, in quotes only where it would otherwise be read as something else."""
    plain = re.fullmatch(r"[A-Za-z/._][\w/.-]*", str(text), re.ASCII) and str(text).lower() not in OTHER_THAN_TEXT
    return str(text) if plain else quoted(text)
