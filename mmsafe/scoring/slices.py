"""Slices of a training set, the examples that share the value of a tag: metrics of a step are told for each."""

from collections.abc import Sequence
from typing import NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example

SOURCE = "source"
"""The tag by which a mixture is sliced where nothing else is chosen."""


class Slice(NamedTuple):
    """A tag and one of its values."""

    tag: str
    value: str

    def __str__(self) -> str:
        return f"{self.tag}={self.value}"

    def has(self, example: Example) -> bool:
        """Whether the example belongs to it."""
        return example.tags.get(self.tag) == self.value


def slices_of(examples: Sequence[Example], tags: Sequence[str] | None) -> tuple[Slice, ...]:
    """The slices that `tags` make, by `source` if that is None; the same on all ranks.

    Raises `UserError` for a tag that no example has, and for one that would not be a name of one line.
    """
    values = {
        tag: sorted({e.tags[tag] for e in examples if tag in e.tags}) for tag in ([SOURCE] if tags is None else tags)
    }
    if tags is not None and (missing := [tag for tag, tag_values in values.items() if not tag_values]):
        known = ", ".join(sorted({tag for example in examples for tag in example.tags})) or "none"
        raise UserError(f"trainer.metrics_by: no training example has the tag '{missing[0]}'; there are: {known}")
    slices = tuple(Slice(tag, value) for tag, tag_values in values.items() for value in tag_values)
    if unfit := next((part.tag for part in slices if not str(part).isprintable()), None):
        raise UserError(f"trainer.metrics_by: a value of the tag {unfit!r} is not one line; mend it in the data")
    return slices
