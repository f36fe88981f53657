"""Rows that cannot be used: they end the command, or are dropped, counted and told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import BadRow
from mmsafe.data.row_error import RowError

log = logging.getLogger(__name__)
DUPLICATE = RowError("duplicate id", "an earlier row has the same id; give each row its own")
UNANSWERED = "no response"
"""Why a prompt alone is not trained on."""


def leave_out(path: Path, bad: Sequence[tuple[str, RowError]], good: int, *, skip: bool) -> list[BadRow]:
    """The rows of `path` that are dropped, each with its place; raises `UserError` unless such are to be skipped.

    So it does if no row is good.
    """
    if bad and not skip:
        more = f"and {len(bad) - 1} more bad rows; " if len(bad) > 1 else ""
        raise UserError(f"{_first(bad)}; {more}data.on_bad=skip drops and counts them")
    counts = dict(Counter(error.reason for _, error in bad))
    if not good:
        raise UserError(f"{path}: no row {f'can be used: {counts}; the first: {_first(bad)}' if bad else 'is in it'}")
    if bad:
        log.warning("%s: %d rows are left out: %s", path, len(bad), counts)
    return [BadRow(place, error.reason) for place, error in bad]


def _first(bad: Sequence[tuple[str, RowError]]) -> str:
    place, error = bad[0]
    return " ".join(f"{place}: {error}".splitlines())
