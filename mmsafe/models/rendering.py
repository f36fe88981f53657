"""Renders conversations by the chat template of a stranger, bounded in time, memory and length (docs/adr/0017)."""

import faulthandler
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import TemplateError

from mmsafe.core.errors import UserError

SECONDS = 2.0
"""Seconds of this thread's processor time; a usual template takes about 0.001, and 0.03 more when it is compiled."""
HANGING = 60
"""Seconds until one operation of C, which no trace function sees, ends the process: that is all that can end it."""
MEMORY = 1 << 30
"""Bytes by which the process may grow meanwhile."""
LENGTH = 100_000
"""Characters that a template may add of its own; what is said may come up to four times."""
UNBOUNDED = ("*", "**")
"""Operators that take any time or memory in one step of the interpreter; no template of a chat needs them."""
STATM = Path("/proc/self/statm")
ALONE = threading.Lock()
"""One rendering at a time, because the memory limit is that of the whole process."""


class CannotShowError(UserError):
    """A template refuses a conversation, or has a fault."""


class _OverdueError(RuntimeError):
    """The time is over; a `RuntimeError`, because nothing in Jinja catches one."""


def rendered(processor: Any, messages: Sequence[dict[str, Any]], **options: Any) -> str:
    """`processor.apply_chat_template` as text.

    Raises `CannotShowError` where the template refuses `messages` or fails at them, and `UserError` where it takes too
    much time or memory.
    """
    template = options.get("chat_template") or processor.chat_template
    if template in _ours():
        return str(processor.apply_chat_template(messages, tokenize=False, **options))
    name = f"the chat template of {getattr(processor, 'tokenizer', processor).name_or_path or 'the model'}"
    try:
        with ALONE, _limited_memory(), _limited_time():
            _refuse_unbounded(template)
            text = str(processor.apply_chat_template(messages, tokenize=False, **options))
    except (_OverdueError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{name}: needs more than {SECONDS:g} s, {MEMORY >> 30} GiB or the stack; use another"
        ) from error
    except Exception as error:  # a template can raise anything, as the code that it is
        reason = " ".join(str(error).split())[:120]
        kind = "" if isinstance(error, TemplateError | ValueError) else f"{type(error).__name__}: "
        raise CannotShowError(f"{name}: cannot show a conversation: {kind}{reason}") from error
    if len(text) > LENGTH + 4 * len(str(messages)):
        raise UserError(f"{name}: makes {len(text)} characters of a conversation; use another")
    return text


@lru_cache
def _ours() -> frozenset[str]:
    """Templates that need no bounds."""
    return frozenset(path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "templates").glob("*.jinja"))


@lru_cache
def _refuse_unbounded(template: str) -> None:
    unbounded = (value for _, kind, value in Environment().lex(template) if kind == "operator" and value in UNBOUNDED)
    if operator := next(unbounded, None):
        raise ValueError(f"it uses the operator {operator}, which can take any time and memory")


@contextmanager
def _limited_time() -> Iterator[None]:
    """Looks at the clock at every line of the template and every call that it makes."""
    start = time.thread_time()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() - start > SECONDS:
            raise _OverdueError
        return watch if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    faulthandler.dump_traceback_later(HANGING, exit=True, file=2)  # its thread needs no lock of the interpreter's
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Where the system tells how large the process is, which is Linux."""
    if not STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(STATM.read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
