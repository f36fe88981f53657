"""Writing where there may be no room left."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmsafe.core.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}
RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell what went wrong."""
TORCH = re.compile(r"inline_container\.cc|iostream error")
"""`torch.save` by the name of a file does not tell why it could not write all of it."""


@contextmanager
def needs_room(path: Path, otherwise: str = "") -> Iterator[None]:
    """Around the writing of `path`: raises `UserError` if the disk or the user's share of it is full, or read-only.

    `otherwise` is what can be done instead of making it writable.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refusal = _refused(error, path)
        if refusal is None:
            raise
        reason, advice = refusal
        message = f"cannot be written ({reason}); {advice}{otherwise}, then run the same command again"
        raise UserError(f"{path}: {message}") from error


def _refused(error: BaseException, path: Path) -> tuple[str, str] | None:
    """The reason and what to do, if `error` or one that led to it says that `path` found no room or no right."""
    vague = None
    step: BaseException | None = error
    while step is not None:
        match = RUST.search(str(step))
        number = int(match[1]) if match else step.errno if isinstance(step, OSError) else None
        if number in NO_ROOM:
            return os.strerror(number), "make room there"
        if number in NO_RIGHT and _concerns(step, path):
            return os.strerror(number), "make it writable"
        if isinstance(step, RuntimeError) and TORCH.search(str(step)):
            vague = "PyTorch could not write all of it", "make room there"
        step = step.__cause__ or step.__context__
    return vague


def _concerns(error: BaseException, path: Path) -> bool:
    """Whether `error` is about writing `path`, and not about another file that could not be read."""
    named = getattr(error, "filename", None)
    return named is None or path.is_relative_to(named) or Path(named).is_relative_to(path.parent)
