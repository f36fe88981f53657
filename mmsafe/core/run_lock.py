"""One run at a time in a folder, however many processes it has."""

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from mmsafe.core import ranks
from mmsafe.core.errors import UserError

log = logging.getLogger(__name__)
RUN = "MMSAFE_RUN"
"""Variable by which the processes of a run know one another, and that its folder is theirs."""
LAUNCHERS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""What tells processes of one run that SLURM or torchrun started."""
NAME = ".lock"
PATIENCE = 30
"""Seconds that the processes of a run have to end after the one that started them was killed."""
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_descriptors: set[int] = set()
"""Locks that this process has open; its forked children, such as data workers, close them, or they would hold them."""


def _forget() -> None:
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_forget)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run: no process of another one gets past here before all of this one's have ended.

    The operating system lets go when a process dies. Raises `UserError` naming the process that holds it.
    """
    run = this_run()
    lock = taken(folder, run)
    if lock is None:
        about = _about(folder)
        holder = f"process {about.get('pid', '?')} on {about.get('host', '?')}"
        raise UserError(f"hydra.run.dir={folder}: {holder} is at work there; wait for it, or choose another folder")
    _descriptors.add(lock)
    before = {RUN: os.environ[RUN]} if RUN in os.environ else {}
    os.environ[RUN] = run  # of the processes that this one starts
    try:
        yield
    finally:
        os.environ.pop(RUN)
        os.environ.update(before)
        if lock in _descriptors:  # not in a forked child that passes here
            _descriptors.discard(lock)
            _let_go(folder, lock)


def refuse_held(folder: Path) -> None:
    """Raise `UserError` if another run is at work in `folder`; leaves nothing there."""
    if (folder / NAME).exists():
        with held(folder):
            pass


def taken(folder: Path, run: str, patience: float = PATIENCE) -> int | None:
    """A descriptor that holds `folder` for `run`, shared with its other processes; None if another run has it.

    Waits up to `patience` seconds where the process that began the other one is dead: what it started is about to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while (lock := _tried(folder, run)) is None:
        about = _about(folder)
        beginning = not about or about.get("run") == run  # it is being written, by a process of this run perhaps
        if time.monotonic() > deadline or not (beginning or _is_orphan(about)):
            return None
        time.sleep(0.1)
    return lock


def this_run() -> str:
    """Name of the run of this process: its parent's, or its launcher's, else a new one."""
    started = "-".join(os.environ.get(name, "") for name in LAUNCHERS) if ranks.started() else ""
    return os.environ.get(RUN) or started or uuid4().hex


def _tried(folder: Path, run: str) -> int | None:
    """One try of `taken`: a process alone here writes down its run, then shares the lock with processes of that run.

    Between the exclusive lock and the shared one is a moment without any, in which a process of another run may have
    taken it: so what is written counts only when it is read again under the shared lock.
    """
    lock = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if _locked(lock, fcntl.LOCK_EX):
            _write(lock, run)
        shared = _locked(lock, fcntl.LOCK_SH) and _is_there(folder, lock)
        if shared and _about(folder).get("run") == run:
            if not ranks.started():
                _write(lock, run)  # the job of a sweep, in place of the sweep that may end before it
            return lock
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; start no other run in this folder", folder)
        return lock
    os.close(lock)
    return None


def _write(lock: int, run: str) -> None:
    about = json.dumps({"run": run, "pid": os.getpid(), "host": platform.node()})
    os.pwrite(lock, about.encode(), 0)
    os.truncate(lock, len(about))


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(folder: Path, lock: int) -> bool:
    """Whether the file is still that of the folder: the last process of a run removes it."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder / NAME))
    except FileNotFoundError:
        return False


def _let_go(folder: Path, lock: int) -> None:
    try:
        if _locked(lock, fcntl.LOCK_EX) and _is_there(folder, lock):
            (folder / NAME).unlink()
    except OSError as error:
        log.debug("%s: %s", folder / NAME, error)  # without locks, or gone with its folder
    os.close(lock)


def _about(folder: Path) -> dict[str, Any]:
    """What the holder wrote; empty while it writes."""
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        record = None
    return record if isinstance(record, dict) else {}


def _is_orphan(about: dict[str, Any]) -> bool:
    """Whether the process that wrote `about` is dead, as far as can be seen from here."""
    if about.get("host") != platform.node():
        return False
    try:
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's
    return False
