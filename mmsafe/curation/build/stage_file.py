"""What a stage has made, in a file: a line that says with what, a line for each row, a line that says that is all."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmsafe.core.row_store import RowStore
from mmsafe.curation.build.stage import Outcome, Row

HEADER, END = "#header", "#end"
"""Keys of the first and the last line; those of rows are numbers."""


class StageFile(RowStore[Outcome]):
    """Rows `key`, `row`, `reason`, appended as they are made; a kill costs at most the portion in the making."""

    key: ClassVar[str] = "key"
    otherwise: ClassVar[str] = ""
    remedy: ClassVar[str] = "delete the file"  # without a line, the end would say that nothing is left to make

    def __init__(self, folder: Path, number: int, name: str, identity: Mapping[str, Any], fingerprint: str) -> None:
        self.name, self.stem = name, f"stage_{number}_{name}"
        super().__init__(folder)
        self._header = {"fingerprint": fingerprint, **identity}
        self.read()
        kept = self.kept.get(HEADER, Outcome(None)).row or {}
        self.outdated = bool(self.kept) and kept.get("fingerprint") != fingerprint
        """The file holds rows of another stage, of other options or of other rows."""

    @property
    def entry(self) -> str:
        """A user may rename the folder."""
        return self.stem

    def row(self, value: Outcome) -> Mapping[str, Any]:
        return value._asdict()

    def value(self, row: Mapping[str, Any]) -> Outcome:
        return Outcome(row["row"], row["reason"])

    @property
    def complete(self) -> bool:
        """Nothing is left to make."""
        return END in self.kept and not self.outdated

    def begin(self) -> None:
        """Make the file one of this stage: what is in it goes on, or is deleted if it is outdated."""
        if self.outdated:
            self.path.unlink()
            self.kept.clear()
            self._taken_up.clear()
            self.outdated = False
        if not self.kept:
            self._add([(HEADER, Outcome(self._header))])

    def add(self, outcomes: Iterable[tuple[str, Outcome]]) -> None:
        """Keep those that are new."""
        self._add([(key, outcome) for key, outcome in outcomes if key not in self.kept])

    def end(self) -> None:
        """Say that nothing is left to make."""
        self._add([(END, Outcome(None))])

    def outcomes(self) -> dict[str, Outcome]:
        """What became of every row so far."""
        if self.outdated:
            return {}
        return {key: outcome for key, outcome in self.kept.items() if key not in (HEADER, END)}

    def rows(self, order: Iterable[str] | None = None) -> dict[str, Row]:
        """The rows that go on, in the given order of keys, or else as they were made."""
        outcomes = self.outcomes()
        keys = outcomes if order is None else order
        return {key: row for key in keys if key in outcomes and (row := outcomes[key].row) is not None}

    def dropped(self) -> Counter[str]:
        """How many rows were dropped for which reason."""
        return Counter(str(reason) for row, reason in self.outcomes().values() if row is None)

    def remarks(self) -> Counter[str]:
        """How many rows go on with which remark."""
        return Counter(reason for row, reason in self.outcomes().values() if row is not None and reason)

    def _add(self, outcomes: list[tuple[str, Outcome]]) -> None:
        self.append(outcomes)
        self.read()
