"""Loading libraries fast."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from mmsafe.core.terminal import through_here


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports of large libraries: a fifth faster, for nothing that they make is looked through as garbage.

    Later collections do not look through it either, and data workers share it with their parent.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # once: later on, what is garbage by then would stay, too
            gc.freeze()
        gc.enable()
        through_here()
