"""What a person sees of a run, more or less of it; its log file has everything."""

import gc
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
    r"(Future|Deprecation)Warning: |` is deprecated, |building the font cache|Setting accelerator to CPU|load CPU gemm"
)
"""Warnings of libraries about which whoever runs a command can do nothing."""
_level = "normal"


def is_quiet() -> bool:
    """Whether only warnings and results are shown."""
    return _level == "quiet"


def check_verbosity(level: object) -> None:
    """Raise `UserError` if there is no such level."""
    if level not in LEVELS:
        raise UserError(f"{VERBOSITY}={level}: must be one of {', '.join(LEVELS)}")


@contextmanager
def shown(level: str, packages: Sequence[str] = ()) -> Iterator[None]:
    """In the block, log lines and warnings go to stderr, too: at `normal`, only warnings of others than `packages`."""
    global _level
    before, _level, root = _level, level, logging.getLogger()
    terminal = _Terminal(("mmsafe", *packages))
    if is_first():
        root.addHandler(terminal)
    logging.captureWarnings(True)
    logging.getLogger("DeepSpeed").addFilter(_to_root)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(terminal)
        _level = before


@contextmanager
def loading() -> Iterator[None]:
    """Around imports of large libraries: what stays is not looked through as garbage, and they log like all else."""
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # once: later on, what is garbage by then would stay, too
            gc.freeze()
        gc.enable()
        for name in ("transformers", "pytorch_lightning", "lightning_fabric", "torchmetrics"):
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True


def _to_root(record: logging.LogRecord) -> bool:
    """In place of the handler that DeepSpeed adds whenever it is imported."""
    logging.getLogger().handle(record)
    return False


class _Terminal(logging.Handler):
    def __init__(self, packages: Sequence[str]) -> None:
        super().__init__(LEVELS[_level])
        self.packages, self.all = packages, _level == "verbose"

    def emit(self, record: logging.LogRecord) -> None:
        text, warns = self.format(record), record.levelno >= logging.WARNING
        if not self.all and (NOISE.search(text) or not (warns or record.name.split(".")[0] in self.packages)):
            return
        text = text.partition("\n")[0] if record.name == "py.warnings" else text  # without the line of code
        words = [f"[{record.name}]"] * self.all + [f"{record.levelname.lower()}:"] * warns + [text]
        print(*words, file=sys.stderr)  # which a bar replaces while it is shown
