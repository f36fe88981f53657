"""Text in the words of a command line, as Hydra reads it."""

from __future__ import annotations

import re

OTHER_THAN_TEXT = ("null", "true", "false", "nan", "inf")


def quoted(text: object) -> str:
    """A text of any characters as a value."""
    return "'{}'".format(str(text).replace("\\", "\\\\").replace("'", "\\'"))


def as_text(text: object) -> str:
    """The same, in quotes only where it would otherwise be read as something else."""
    plain = re.fullmatch(r"[A-Za-z/._][\w/.-]*", str(text), re.ASCII) and str(text).lower() not in OTHER_THAN_TEXT
    return str(text) if plain else quoted(text)
