"""How every command ends: with one line where input or place is at fault, with its own status where a signal asks."""

import errno
import io
import logging
import os
import re
import select
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mmsafe.core.command_line import as_text
from mmsafe.core.errors import UserError
from mmsafe.core.ranks import is_first
from mmsafe.core.secrets import MaskedRecord, masked
from mmsafe.core.storage import NO_RIGHT, NO_ROOM

log = logging.getLogger(__name__)
BAD_INPUT = 2
NO_READER = 128 + signal.SIGPIPE
PLACE = {
    *NO_ROOM,
    *NO_RIGHT,
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ELOOP, errno.ESTALE),
}
"""What is wrong with a file or folder, and not with the code that wants it."""
STOP = (signal.SIGTERM, signal.SIGINT)
LOST = re.compile(r"DataLoader worker \(pid.*?(?=[.\n]|$)")
"""What PyTorch says of a data worker that was killed; wherever this process is at that moment."""


@contextmanager
def clean_exit(command: str) -> Iterator[None]:
    """Around all that a command does.

    Bad input, and files or folders that cannot be read or written, end the process with one line and status 2; the
    first SIGTERM or SIGINT with 143 or 130; a reader of the output that has gone, as `| head` does, with 141. What the
    encoding of the output lacks is written as an escape, and logs are written without secrets.
    """
    logging.setLogRecordFactory(MaskedRecord)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with ended_at_once():
            try:
                yield
            finally:
                flush()
    except UserError as error:
        report(str(error), command)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes at its end
            sys.exit(NO_READER)
        if error.errno not in PLACE:
            raise
        log.debug("where it happened:", exc_info=True)
        report(f"{error.filename or 'a file'}: cannot be used ({error.strerror}); choose another place", command)
        sys.exit(BAD_INPUT)


def report(message: str, command: str) -> None:
    """Print the one line that a user is meant to read."""
    print(masked(f"{command}: {message}"), file=sys.stderr)


def show_results(place: Path | str, following: str = "") -> None:
    """Print where results are, and the command that comes next, in which `{}` stands for that place.

    Nothing is printed by processes of a run but the first.
    """
    if not is_first():
        return
    if isinstance(place, Path) and place.absolute().is_relative_to(Path.cwd()):
        place = place.absolute().relative_to(Path.cwd())
    print(f"results: {place}")
    if following:
        print(f"next: {following.format(shlex.quote(as_text(place)))}")


def flush() -> None:
    """Write what was printed, or find out that nobody reads it."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _reader_is_gone() -> bool:
    """Whether it is stdout that is broken, and not a pipe to another process."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


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
        if (lost := LOST.search(str(error))) is None:
            raise
        raise UserError(
            f"{lost[0]}; if memory ran out, lower data.num_workers or data.batch_size; the same command continues"
        ) from error
