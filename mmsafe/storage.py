"""Writing where there may be no room left."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsafe.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell what went wrong."""
TORCH = re.compile(r"inline_container\.cc|iostream error")
"""`torch.save` by the name of a file does not tell why it could not write all of it."""


@contextmanager
def needs_room(path: Path, advice: str = "make room there") -> Iterator[None]:
    """Around the writing of `path`: raises `UserError` if the disk or the user's share of it is full."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot be written ({reason}); {advice}, then run the same command again") from error


def _no_room(error: BaseException) -> str | None:
    """The reason, if `error` or one that led to it says that there was no room."""
    vague = None
    step: BaseException | None = error
    while step is not None:
        told = RUST.search(str(step))
        number = int(told[1]) if told else step.errno if isinstance(step, OSError) else None
        if number in NO_ROOM:
            return os.strerror(number)
        if isinstance(step, RuntimeError) and TORCH.search(str(step)):
            vague = "PyTorch could not write all of it"
        step = step.__cause__ or step.__context__
    return vague
