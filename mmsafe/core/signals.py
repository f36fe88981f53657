"""Signals that ask a process to stop, and those that ended its data workers."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmsafe.core.errors import UserError

STOP = (signal.SIGTERM, signal.SIGINT)
LOST = re.compile(r"DataLoader worker \(pid.*?(?=[.\n]|$)")
"""What PyTorch says of a data worker that was killed; wherever this process is at that moment."""


def end(number: int, frame: FrameType | None = None) -> None:
    """End this process with the status of one that signal `number` ended: 143 for SIGTERM, 130 for SIGINT.

    Cleans up on the way, as `sys.exit` does, and leaves no traceback.
    """
    sys.exit(128 + number)


def answer(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Have SIGTERM and SIGINT answered by `handler`; returns what answered before, nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # signals are the main thread's business
    return {number: signal.signal(number, handler) for number in STOP}


def restore(before: Mapping[signal.Signals, Any]) -> None:
    """Have them answered again by what `answer` returned."""
    for number, previous in before.items():
        signal.signal(number, previous)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """SIGTERM and SIGINT end the process, wherever it is; afterwards they do what they did before.

    The first one decides the status, whatever else the block ends with: interrupted code may raise an error of its own
    on the way out (OmegaConf does), or take the end for one and go on.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        end(number)

    before = answer(receive)
    try:
        yield
    finally:
        restore(before)
        if received:
            end(received[0])


@contextmanager
def killed_workers() -> Iterator[None]:
    """Raises `UserError` if a data worker was killed, as a system that runs out of memory does."""
    try:
        yield
    except RuntimeError as error:
        if (told := LOST.search(str(error))) is None:
            raise
        raise UserError(
            f"{told[0]}; if memory ran out, lower data.num_workers or data.batch_size; the same command continues"
        ) from error
