"""The interface of a data set: what a file in `conf/data/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from mmsafe.data.example import Example
from mmsafe.errors import UserError
from mmsafe.options import Count, options

PAIR = frozenset({"chosen", "rejected"})
GENERATED = ("blind", "weakened")
"""Responses that a row may bring, and that are made where it does not."""


@dataclass
class Loaded:
    """Examples read from a source, and how many rows were dropped for which reason."""

    examples: list[Example]
    dropped: dict[str, int] = field(default_factory=dict)


@options
class DataSource(ABC):
    """Base of all readers; the fields here are options that every data set has."""

    batch_size: Count = 8
    """Examples per device and micro-step."""
    num_workers: int = 0
    """Worker processes that decode and collate."""
    group_by_length: bool = False
    """Batches of similar length: less padding, slightly less random."""

    @abstractmethod
    def train(self) -> Loaded:
        """The examples to train on."""

    @abstractmethod
    def holdout(self) -> Loaded:
        """The examples that a training run is evaluated on; disjoint from `train()`."""

    def test(self) -> Loaded:
        """The examples that `mmsafe.evaluate` measures a finished model on."""
        return self.holdout()

    def brings(self) -> frozenset[str]:
        """Names of the responses that every example to train on has."""
        return PAIR

    def text_only(self, example: Example) -> Example | None:
        """The same harmful request in words alone; None where this data has no such form of it."""
        return None

    def image_swapped(self, example: Example) -> Example | None:
        """The same words beside an image that makes them harmless; None where this data has no such image."""
        return None


@options
class NoData(DataSource):
    """Stands in for data beside a benchmark that brings its own prompts."""

    def train(self) -> Loaded:
        """There is nothing."""
        raise UserError("there is no data: choose some, as data=microworld, or data=mmsafe_po data.path=FILE")

    def holdout(self) -> Loaded:
        """There is nothing."""
        return self.train()
