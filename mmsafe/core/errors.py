"""The one exception that a user is meant to read."""

LONGEST = 900
"""Characters of a message that a terminal can show; what a stranger's file calls things may have a million."""


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do. Ends a command with exit status 2.

    A message that is too long loses its middle: place and advice stand at its ends; what has line breaks, such as the
    name of a file, loses those.
    """

    def __init__(self, message: str) -> None:
        message = " ".join(message.splitlines())
        whole = len(message) <= LONGEST
        super().__init__(message if whole else f"{message[: LONGEST * 2 // 3]} [...] {message[-LONGEST // 4 :]}")
