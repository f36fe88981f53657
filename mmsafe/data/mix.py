"""Several data sets as one."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from mmsafe.core.config import each_built, named
from mmsafe.core.errors import UserError
from mmsafe.core.options import Positive, Seed, options
from mmsafe.data.data_source import DataSource, Loaded
from mmsafe.data.example import Example, digest

log = logging.getLogger(__name__)
Parts = Annotated[dict[str, InstanceOf[DataSource]], BeforeValidator(each_built("data.parts"))]


@options
class Mix(DataSource):
    """The examples of several data sets, each with its part's name in its id and as its tag `source`.

    Batch size, workers and grouping are those of the mixture; what a part says of them is not read. Weights are of the
    training examples; evaluation is on all that the parts hold out. An image that two parts have may be trained on from
    the one and evaluated on from the other.
    """

    parts: Parts = Field(default_factory=dict)
    weights: dict[str, Positive] | None = None
    repeat: bool = False
    """With weights, false: no example twice, what a part has too many is left out; true: every example at least once,
    the parts that have too few are repeated."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(
                "data.parts is empty: add some, as +data@data.parts.NAME=spa_vl data.parts.NAME.path=FOLDER"
            )
        if any(isinstance(part, Mix) for part in self.parts.values()):
            raise UserError("data.parts: a mixture cannot be part of another; name its parts instead")
        if self.weights is not None and self.weights.keys() != self.parts.keys():
            raise UserError(f"data.weights: needs a weight for each of {', '.join(self.parts)}, and for nothing else")

    def brings(self) -> frozenset[str]:
        return frozenset.intersection(*(part.brings() for part in self.parts.values()))

    @property
    def clusters(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(tag for part in self.parts.values() for tag in part.clusters))

    def has_images(self) -> bool:
        return any(part.has_images() for part in self.parts.values())

    def to_hold_out(self) -> str:
        """What to change in the first part: all hold out nothing."""
        name, part = next(iter(self.parts.items()))
        return f"data.parts.{name}: {part.to_hold_out()}"

    def files(self) -> list[Path]:
        return [*super().files(), *(file for part in self.parts.values() for file in part.files())]

    def train(self) -> Loaded:
        """The parts in the proportion of `weights`."""
        return self._weighted("train")

    def prompts(self) -> Loaded:
        """The same, with parts that are prompts alone."""
        return self._weighted("prompts")

    def _weighted(self, which: Literal["train", "prompts"]) -> Loaded:
        loaded = self._loaded(which)
        if empty := [name for name, part in loaded.items() if not part.examples]:
            raise UserError(f"data.parts.{empty[0]}: has nothing to train on")
        if self.weights is not None:
            sizes = wanted({name: len(part.examples) for name, part in loaded.items()}, self.weights, self.repeat)
            for name, part in loaded.items():
                part.examples = list(islice(_again_and_again(part.examples, self.seed), sizes[name]))
        log.info("mixture: %s", ", ".join(f"{len(part.examples)} of {name}" for name, part in loaded.items()))
        return _together(loaded)

    def holdout(self) -> Loaded:
        return _together(self._loaded("holdout"))

    def test(self) -> Loaded:
        return _together(self._loaded("test"))

    def text_only(self, example: Example) -> Example | None:
        return self._by_part("text_only", example)

    def image_swapped(self, example: Example) -> Example | None:
        return self._by_part("image_swapped", example)

    def _loaded(self, which: Literal["train", "prompts", "holdout", "test"]) -> dict[str, Loaded]:
        parts = {}
        for name, part in self.parts.items():
            with named(f"data.parts.{name}"):
                loaded: Loaded = getattr(part, which)()
            examples = [replace(e, id=f"{name}/{e.id}", tags={**e.tags, "source": name}) for e in loaded.examples]
            parts[name] = Loaded(self.categorised(examples), [row._replace(source=name) for row in loaded.bad_rows])
        return parts

    def _by_part(self, form: Literal["text_only", "image_swapped"], example: Example) -> Example | None:
        """The part's other form of an example, which has another id there."""
        name = example.tags["source"]
        other = getattr(self.parts[name], form)(replace(example, id=example.id.removeprefix(f"{name}/")))
        return None if other is None else replace(other, id=example.id)


def wanted(sizes: Mapping[str, int], weights: Mapping[str, float], repeat: bool) -> dict[str, int]:
    """How many examples of each part: in proportion, the most without repeating any, or the fewest that hold all."""
    limits = [sizes[name] / weight for name, weight in weights.items()]
    unit = max(limits) if repeat else min(limits)
    return {name: max(1, round(unit * weight)) for name, weight in weights.items()}


def _again_and_again(examples: Sequence[Example], seed: int) -> Iterable[Example]:
    """The examples in an order that `seed` decides, without end; from the second round on, ids tell the round."""
    order = sorted(examples, key=lambda example: digest([seed, example.id]))
    for turn in count(1):
        yield from order if turn == 1 else (replace(example, id=f"{example.id}#{turn}") for example in order)


def _together(loaded: Mapping[str, Loaded]) -> Loaded:
    examples = [example for part in loaded.values() for example in part.examples]
    return Loaded(examples, [row for part in loaded.values() for row in part.bad_rows])
