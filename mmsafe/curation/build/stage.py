"""The interface of a stage: rows in, rows out, each under the key that it keeps to the end."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import TypeAdapter

from mmsafe.core.options import options
from mmsafe.models.model_source import ModelSource

Row = dict[str, Any]
"""What is known of a pair so far; every stage adds fields."""


class Outcome(NamedTuple):
    """What a stage made of a row: None with the `reason` for dropping it, or a row, with a remark if there is one.

    Reasons and remarks are counted, so they hold nothing of the row itself.
    """

    row: Row | None
    reason: str | None = None


@dataclass(frozen=True)
class Site:
    """Where a set is built, and the model that a stage may run there."""

    folder: Path
    model: ModelSource

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.folder / "images"


@options
class BuildStage(ABC):
    """Base of all stages; what a class adds as fields are its options."""

    version: ClassVar[int] = 1
    """Raised when the same options lead to other rows than before."""
    idle: ClassVar[frozenset[str]] = frozenset()
    """Options that change no row."""
    whole: ClassVar[bool] = False
    """Looks at all rows together, and is quick enough to do so again after an interruption."""
    costs: ClassVar[bool] = False
    """Asks a server, or runs a model: a dry run leaves it out."""

    def check(self, site: Site) -> None:  # noqa: B027  # most stages need nothing
        """Raise `UserError` if this stage cannot do its work here; called before any stage begins."""

    def identity(self, site: Site) -> dict[str, Any]:
        """All that its rows depend on, besides the rows that it is given."""
        chosen = {name: value for name, value in plain(self).items() if name not in self.idle}
        return {"stage": f"{type(self).__module__}.{type(self).__name__}", "version": self.version, **chosen}

    @abstractmethod
    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        """Outcomes by key, in portions that are kept as they come.

        `rows` are those that are still to be made or, if the stage is `whole`, all.
        """

    def plan(self, count: int, rows: Sequence[Row] | None) -> str:
        """What it would ask, and how much, for `count` rows; `rows` is None if they are not known yet."""
        return "nothing is asked"


def plain(chosen: Any) -> dict[str, Any]:
    """Options as JSON values."""
    values: dict[str, Any] = TypeAdapter(type(chosen)).dump_python(chosen, mode="json")
    return values
