"""A job of submitit whose time is up: saved as on SIGTERM, then queued again by submitit itself."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmsafe.core import ranks


@contextmanager
def requeued() -> Iterator[None]:
    """Around a job: SIGUSR2 first stops it as SIGTERM does, and submitit's own handler runs when all is saved.

    submitit would queue the job again at once, in the middle of a step. Where it has no handler, nothing changes.
    """
    queue_again = signal.getsignal(signal.SIGUSR2)
    if not callable(queue_again):
        yield
        return
    told: list[tuple[int, FrameType | None]] = []

    def time_is_up(number: int, frame: FrameType | None) -> None:
        told.append((number, frame))
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGUSR2, time_is_up)
    try:
        yield
    except SystemExit:
        if told and ranks.is_first():
            queue_again(*told[0])
        if told:
            sys.exit(0)  # another status would make some clusters kill the first process, which has yet to act
        raise
    finally:
        signal.signal(signal.SIGUSR2, queue_again)
