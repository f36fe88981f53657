"""One progress bar for everything that takes a while outside training."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmsafe.core.ranks import is_first
from mmsafe.core.rates import note_rate
from mmsafe.core.terminal import is_quiet


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with count, elapsed and remaining time; yields the function that advances it.

    Of several processes only the first shows one. What it took is noted for the next time.
    """
    begin = time.perf_counter()
    with progress_bar(total) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
    note_rate(label, time.perf_counter() - begin, total)


def progress_bar(total: int) -> Progress:
    """The same without a task: to be started, stopped and advanced by hand."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console, idle = Console(stderr=True, force_jupyter=False), total == 0 or is_quiet() or not is_first()
    return Progress(*columns, console=console, disable=idle)


def once_each(advance: Callable[[int], None]) -> Callable[[Iterable[str]], None]:
    """A function that is told keys that are done, and advances by those that it has not been told before."""
    seen: set[str] = set()

    def tell(keys: Iterable[str]) -> None:
        new = set(keys) - seen
        seen.update(new)
        advance(len(new))

    return tell
