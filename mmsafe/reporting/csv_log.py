"""`metrics.csv`: what was measured at which step, readable while the run goes on and whole after it was interrupted."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from mmsafe.core.files import STEP, csv_text, read_columns, write_csv
from mmsafe.core.storage import needs_room


class CsvLog(Logger):
    """One row per logged step: `step`, then the metrics in the order in which their names first came up.

    Lightning's own CSVLogger deletes an existing file, sorts the columns and holds rows back. Here each call is on disk
    when it returns, and a resumed run goes on in the file of its predecessor. Lightning does not tell a logger where a
    run resumes, so the first call of a process decides: rows of later steps are dropped, for they will be logged again.
    A row of the same step takes in the new values; it is not dropped, because it is the last training step where only
    the evaluation after it is repeated.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self._columns: list[str] = []
        self._rows: dict[int, dict[str, float]] | None = None  # by step, in its order; None until the first call

    @property
    def name(self) -> str:
        return ""  # Lightning names folders after it

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder already holds the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of their step, without one to the last row."""
        if unfit := [name for name in metrics if name == STEP or name.splitlines() != [name]]:
            raise ValueError(f"a metric cannot be called {unfit[0]!r}: a name is one line and not {STEP!r}")
        values = {name: float(value) for name, value in metrics.items()}
        first_call = self._rows is None
        rows = self._take_over(step) if self._rows is None else self._rows
        last = next(reversed(rows), -1)
        step = max(last, 0) if step is None else step
        new = [name for name in values if name not in self._columns]
        self._columns += new
        rows[step] = rows.get(step, {}) | values
        if first_call or new or step <= last:
            self._rows = dict(sorted(rows.items()))
            write_csv(self.path, [[STEP, *self._columns], *map(self._line, self._rows)])
        else:
            with needs_room(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(csv_text([self._line(step)]))

    def _take_over(self, step: int | None) -> dict[int, dict[str, float]]:
        """The rows of an earlier process in this folder, up to `step`."""
        self._columns, rows = read_columns(self.path)
        self._rows = {number: rows[number] for number in sorted(rows) if step is None or number <= step}
        return self._rows

    def _line(self, step: int) -> list[str]:
        assert self._rows is not None  # set by the first call
        values = self._rows[step]
        return [str(step), *(repr(values[name]) if name in values else "" for name in self._columns)]
