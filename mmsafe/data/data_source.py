"""The interface of a data set: what a file in `conf/data/` configures."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, InputPath, options
from mmsafe.data.categories import with_categories
from mmsafe.data.example import Example
from mmsafe.data.row_error import RowError

log = logging.getLogger(__name__)
PAIR = frozenset({"chosen", "rejected"})
DUPLICATE = RowError("duplicate id", "an earlier row has the same id; give each row its own")
UNANSWERED = "no response"
"""Why a prompt alone is not trained on."""


class BadRow(NamedTuple):
    """A row that could not be used, and was dropped."""

    place: str
    """Where to look for it: file, row and id."""
    reason: str
    """In the words by which such rows are counted."""
    source: str = ""
    """The part of a mixture that it is from."""


@dataclass
class Loaded:
    """Examples read from a source, and the rows that were dropped."""

    examples: list[Example]
    bad_rows: list[BadRow] = field(default_factory=list)

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were dropped for which reason."""
        reasons = (f"{row.source}: {row.reason}" if row.source else row.reason for row in self.bad_rows)
        return dict(Counter(reasons))


@options
class DataSource(ABC):
    """Base of all readers; the fields here are options that every data set has."""

    trained_on: ClassVar[frozenset[str]] = PAIR
    """Responses that are learnt from; `chosen` alone where there is nothing to prefer to."""
    clusters: ClassVar[tuple[str, ...]] = ()
    """Tags whose values rows share that are no independent evidence, such as the template they were made from."""

    batch_size: Count = 8
    max_tokens: Count | None = None
    num_workers: int = 0
    group_by_length: bool = False
    categories: InputPath | None = None
    """File of `mmsafe.tag` that gives examples their tag `category`, in place of one that they have; null: none."""

    @abstractmethod
    def train(self) -> Loaded:
        """The examples to train on."""

    @abstractmethod
    def holdout(self) -> Loaded:
        """The examples that a training run is evaluated on; disjoint from `train()`."""

    def prompts(self) -> Loaded:
        """What blind responses are made for, and what is inspected: the examples to train on, or prompts alone."""
        return self.train()

    def test(self) -> Loaded:
        """The examples that `mmsafe.evaluate` measures a finished model on."""
        return self.holdout()

    def has_images(self) -> bool:
        """Whether examples can have an image, as far as that is known before anything is read."""
        return True

    def to_hold_out(self) -> str:
        """What to change where nothing is held out to evaluate on."""
        return "raise data.holdout_share, or name a test file"

    def categorised(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the categories of the file; every data set sends through here what it has read."""
        return list(examples) if self.categories is None else with_categories(examples, self.categories)

    def brings(self) -> frozenset[str]:
        """Names of the responses that every example to train on has."""
        return self.trained_on

    def files(self) -> list[Path]:
        """The files that examples are read from, without their images; none where examples are made."""
        return [] if self.categories is None else [self.categories]

    def text_only(self, example: Example) -> Example | None:
        """The same harmful request in words alone; None where this data has no such form of it."""
        return None

    def image_swapped(self, example: Example) -> Example | None:
        """The same words beside an image that makes them harmless; None where this data has no such image."""
        return None

    def pairwise_ceiling(self, pair: Example) -> float | None:
        """Probability with which the people who ranked this pair prefer what is better; None where it is not known."""
        return None


@options
class NoData(DataSource):
    """Stands in for data beside a benchmark that brings its own prompts."""

    def train(self) -> Loaded:
        raise UserError("there is no data: choose some, as data=microworld, or data=mmsafe_po data.path=FILE")

    def holdout(self) -> Loaded:
        return self.train()


def leave_out(path: Path, bad: Sequence[tuple[str, RowError]], good: int, *, skip: bool) -> list[BadRow]:
    """The rows of `path` that are dropped, each with its place; raises `UserError` unless such are to be skipped.

    So it does if no row is good.
    """
    first = next((f"{place}: {error}" for place, error in bad), "")
    if bad and not skip:
        more = f"and {len(bad) - 1} more bad rows; " if len(bad) > 1 else ""
        raise UserError(f"{first}; {more}data.on_bad=skip drops and counts them")
    counts = dict(Counter(error.reason for _, error in bad))
    if not good:
        raise UserError(f"{path}: no row {f'can be used: {counts}; the first: {first}' if bad else 'is in it'}")
    if bad:
        log.warning("%s: %d rows are left out: %s", path, len(bad), counts)
    return [BadRow(place, error.reason) for place, error in bad]


def counted(loaded: Loaded) -> Loaded:
    """The same examples; the log counts them, their images and what was dropped."""
    shown = sum(bool(example.images) for example in loaded.examples)
    dropped = ", ".join(f"{count} {reason}" for reason, count in loaded.dropped.items()) or "none"
    log.info("%d examples, %d of them with an image; dropped: %s", len(loaded.examples), shown, dropped)
    return loaded


def need_images(examples: Sequence[Example], what: str) -> None:
    """Raise `UserError` if no example has an image, which `what` needs: it would compare a thing with itself."""
    if not any(example.images for example in examples):
        problem = f"none of the {len(examples)} training examples has an image, which {what} needs"
        raise UserError(f"data: {problem}; choose other data, or an objective that reads words alone, as objective=dpo")
