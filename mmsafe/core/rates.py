"""How long things took on this machine before, for a rough time before they are done again."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from mmsafe.core.cache import cache_dir
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.core.ranks import is_first

MOST, LARGEST = 500, 2**17
"""Rates that are kept, and bytes of a file that is read."""
STEPS = "steps"
"""What the rate of a training is noted under."""
_alike: ContextVar[str] = ContextVar("alike")


@contextmanager
def rates_of(alike: str) -> Iterator[None]:
    """In the block rates are noted, and told, as of jobs with the same hash `alike` of what their speed depends on."""
    token = _alike.set(alike)
    try:
        yield
    finally:
        _alike.reset(token)


def note_rate(label: str, seconds: float, count: int) -> None:
    """Keep that `count` of what `label` names took so long; the newest rates stay. One that cannot be kept is not."""
    if not (alike := _alike.get("")) or count <= 0 or not is_first():
        return
    with suppress(OSError, UserError):
        rates, key = _rates(), f"{alike} {label}"
        rates.pop(key, None)
        kept = list({**rates, key: seconds / count}.items())[-MOST:]
        write_atomically(_file(), json.dumps(dict(kept)))


def rough_time(label: str, count: int) -> str:
    """About how long `count` of what `label` names take, by the last job like this one; empty if there was none."""
    with suppress(OSError, UserError, ValueError, RecursionError):
        rate = _rates().get(f"{_alike.get('')} {label}")
        if isinstance(rate, float) and 0 < rate * count < math.inf:
            seconds = rate * count
            if seconds >= 5400:
                return f"about {seconds / 3600:.1f} h"
            return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(1, seconds):.0f} s"
    return ""


def _rates() -> dict[str, object]:
    """What the cache holds; nothing where that is not what was written."""
    with suppress(FileNotFoundError, ValueError, RecursionError):
        if _file().stat().st_size <= LARGEST and isinstance(rates := json.loads(_file().read_bytes()), dict):
            return rates
    return {}


def _file() -> Path:
    return cache_dir("rates") / "seconds.json"
