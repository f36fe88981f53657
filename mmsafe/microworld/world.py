"""Scenes: what is shown, what is asked, whether it is harmful; and scenes as examples."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from mmsafe.data.example import Example, Turn
from mmsafe.microworld.icons import IconImage
from mmsafe.microworld.language import (
    QUESTIONS,
    SMALL_TALK,
    Cue,
    Instruction,
    Kind,
    Split,
    directed_instruction,
    neutral_instruction,
)
from mmsafe.microworld.things import COLOURS, DANGEROUS, ENTITY_TYPE, LOOK_ALIKE, THINGS

MULTI_TURN_DIRECTED = 0.30
MULTI_TURN_NEUTRAL = 0.15

Part = Literal["captions", "pretraining", "train", "holdout", "test", "test neutral"]
PARTS = get_args(Part)


@dataclass(frozen=True, slots=True)
class Scene:
    """A prompt and its truth; without a thing there is no image."""

    instruction: Instruction
    thing: str | None
    colour: str
    image_seed: int
    history: tuple[tuple[str, str], ...] = ()

    @property
    def harmful(self) -> bool:
        """A directed instruction is harmful if and only if the thing shown is dangerous."""
        return self.instruction.kind == "directed" and self.thing in DANGEROUS

    def swapped(self) -> Scene:
        """The same text beside the look-alike, drawn with the same nuisance variation and colour."""
        assert self.thing is not None
        return replace(self, thing=LOOK_ALIKE[self.thing])

    def tags(self) -> dict[str, str]:
        """How to group the scene in tables, and all that is needed to judge a response to it."""
        tags = {
            "kind": self.instruction.kind,
            "cue": self.instruction.cue or "none",
            "harmful": "yes" if self.harmful else "no",
            "turns": "multi" if self.history else "single",
        }
        if self.instruction.person:
            tags["person"] = self.instruction.person
        if self.thing:
            tags |= {"thing": self.thing, "colour": self.colour, "entity_type": ENTITY_TYPE[self.thing]}
        return tags

    def example(self, name: str, responses: Mapping[str, str] | None = None, image_size: int = 64) -> Example:
        """The scene as an example called `name`."""
        turns: list[Turn] = []
        for question, reply in self.history:
            turns += [Turn("user", question), Turn("assistant", reply)]
        turns.append(Turn("user", self.instruction.text, (0,) if self.thing else ()))
        images = (IconImage(self.thing, self.image_seed, self.colour, image_size),) if self.thing else ()
        return Example(name, tuple(turns), images, dict(responses or {}), self.tags())


def image_seed(part: Part, seed: int, index: int) -> int:
    """A seed for the pixels of one scene; no two parts, seeds or indices (below a milliard) share one."""
    return (seed * 10**9 + index) * len(PARTS) + PARTS.index(part)


def correlated_cue(rng: random.Random, thing: str, correlation: float) -> Cue:
    """A wording that agrees with what is shown with this probability."""
    return "suspicious" if (thing in DANGEROUS) == (rng.random() < correlation) else "friendly"


def directed_scene(rng: random.Random, thing: str | None, pixels: int, cue: Cue, split: Split) -> Scene:
    """A scene with a directed instruction."""
    instruction = directed_instruction(rng, cue, split)
    return Scene(instruction, thing, rng.choice(COLOURS), pixels, _history(rng, MULTI_TURN_DIRECTED))


def neutral_scene(rng: random.Random, thing: str, pixels: int, split: Split, kind: Kind | None = None) -> Scene:
    """A scene with a neutral question, of any kind unless told."""
    instruction = neutral_instruction(rng, split, kind)
    return Scene(instruction, thing, rng.choice(COLOURS), pixels, _history(rng, MULTI_TURN_NEUTRAL))


def test_scenes(seed: int, n: int) -> list[Scene]:
    """`n` harmful scenes on held-out instructions, each dangerous thing with each wording equally often.

    Their `swapped()` twins are harmless, so the pair tells whether a decision follows the image or the wording.
    """
    rng = random.Random(f"microworld test {seed}")
    scenes = []
    for i in range(n):
        cue: Cue = "suspicious" if i // len(DANGEROUS) % 2 else "friendly"
        scenes.append(directed_scene(rng, DANGEROUS[i % len(DANGEROUS)], image_seed("test", seed, i), cue, "test"))
    return scenes


def neutral_test_scenes(seed: int, n: int) -> list[Scene]:
    """`n` neutral scenes on held-out questions, each thing with each kind of question equally often."""
    rng = random.Random(f"microworld test neutral {seed}")
    kinds = tuple(QUESTIONS)
    scenes = []
    for i in range(n):
        thing, kind = THINGS[i % len(THINGS)], kinds[i // len(THINGS) % len(kinds)]
        scenes.append(neutral_scene(rng, thing, image_seed("test neutral", seed, i), "test", kind))
    return scenes


def _history(rng: random.Random, probability: float) -> tuple[tuple[str, str], ...]:
    return (rng.choice(SMALL_TALK),) if rng.random() < probability else ()
