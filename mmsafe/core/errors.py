"""The one exception that a user is meant to read."""

from __future__ import annotations

LONGEST = 900
"""Characters of a message that a terminal can show; what a stranger's file calls things may have a million."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do. Ends a command with exit status 2.

    A message that is too long loses its middle: place and advice stand at its ends.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


def shortened(message: str) -> str:
    """The message, or its ends if it has more than `LONGEST` characters."""
    if len(message) <= LONGEST:
        return message
    return f"{message[: LONGEST * 2 // 3]} [...] {message[-LONGEST // 4 :]}"
