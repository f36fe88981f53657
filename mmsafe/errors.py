"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do. Ends a command with exit status 2."""
