"""What a person sees of a run, more or less of it; its log file has everything."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmsafe.core.errors import UserError
from mmsafe.core.ranks import is_first

VERBOSITY = "verbosity"
"""The node that says how much is shown; no option of a job, for it changes no result."""
LEVELS = {"quiet": logging.WARNING, "normal": logging.INFO, "verbose": logging.NOTSET}
NOISE = re.compile(
    r"(Future|Deprecation|PendingDeprecation)Warning: |building the font cache|Setting accelerator to CPU"
    r"|Failed to load CPU gemm"
)
"""Warnings of libraries about which whoever runs a command can do nothing."""
LIBRARIES = ("transformers", "pytorch_lightning", "lightning_fabric", "torchmetrics")
"""Those that write to the terminal by handlers of their own."""
_shown = "normal"


def is_quiet() -> bool:
    """Whether only warnings and results are shown."""
    return _shown == "quiet"


def is_verbose() -> bool:
    """Whether everything is shown."""
    return _shown == "verbose"


def check_verbosity(level: object) -> str:
    """The level; raises `UserError` if there is no such."""
    if level not in LEVELS:
        raise UserError(f"{VERBOSITY}={level}: must be one of {', '.join(LEVELS)}")
    return str(level)


@contextmanager
def shown(level: str, packages: Sequence[str] = ()) -> Iterator[None]:
    """Log lines of the block go to the terminal as `level` has it, warnings among them; and to the handlers there are.

    Below warnings only what `mmsafe` and `packages` say is for a person, unless `level` is `verbose`.
    """
    global _shown
    before, _shown, root = _shown, level, logging.getLogger()
    handler = _Terminal(("mmsafe", *packages))
    if is_first():
        root.addHandler(handler)
    logging.captureWarnings(True)
    logging.getLogger("DeepSpeed").addFilter(_to_root)
    try:
        yield
    finally:
        logging.getLogger("DeepSpeed").removeFilter(_to_root)
        logging.captureWarnings(False)
        root.removeHandler(handler)
        _shown = before


def through_here() -> None:
    """Have what libraries log told like all else; they set up their own handlers when they are imported."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _to_root(record: logging.LogRecord) -> bool:
    """In place of the handler that a library adds whenever it is imported."""
    logging.getLogger().handle(record)
    return False


class _Terminal(logging.Handler):
    """To stderr, which a progress bar replaces while it is shown."""

    def __init__(self, packages: Sequence[str]) -> None:
        super().__init__(LEVELS[_shown])
        self.packages = packages
        self.setFormatter(logging.Formatter("[%(asctime)s][%(name)s] %(message)s" if is_verbose() else None))

    def emit(self, record: logging.LogRecord) -> None:
        text, warns = self.format(record), record.levelno >= logging.WARNING
        if not is_verbose():
            if NOISE.search(text) or not (warns or record.name.partition(".")[0] in self.packages):
                return
            text = text.strip() if record.name != "py.warnings" else text.partition("\n")[0]
        print(f"{record.levelname.lower()}: {text}" if warns else text, file=sys.stderr)
