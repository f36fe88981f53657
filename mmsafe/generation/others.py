"""Another row's images or prompt in place of a row's own: fixed by a seed, and never such that are equal to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, digest


@dataclass(frozen=True)
class Others:
    """Rows that lend one another their images and prompts."""

    rows: Sequence[Example]
    seed: int

    def prompt(self, example: Example) -> Example:
        """The example with turns and images of a row that says something else."""
        said = [turn.text for turn in example.turns]
        other = self._row("prompt", example, lambda row: [turn.text for turn in row.turns] != said)
        return replace(example, turns=other.turns, images=other.images)

    def images(self, example: Example, shown: Example) -> Example:
        """`shown` beside the images of a row that has none of its own and none of `example`, but as many."""
        if not shown.images:
            return shown
        own, count = {image.key for image in (*example.images, *shown.images)}, len(shown.images)
        other = self._row(
            "image_view", example, lambda row: len(row.images) == count and own.isdisjoint(i.key for i in row.images)
        )
        return replace(shown, images=other.images)

    def _row(self, option: str, example: Example, fits: Callable[[Example], bool]) -> Example:
        start = int(digest([self.seed, option, example.prompt_key()])[:15], 16)
        for step in range(len(self.rows)):
            if fits(row := self.rows[(start + step) % len(self.rows)]):
                return row
        raise UserError(f"generation.{option}=other: none of {len(self.rows)} rows has another for {example.id}")
