"""What training pairs of the world never show: combinations of words alone, or whole templates, persons or things."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from mmsafe.data.example import Example
from mmsafe.microworld.language import DIRECTED, NOUNS, PERSONS, PLACES, QUESTIONS, VENUES, expansions
from mmsafe.microworld.things import BENIGN, DANGEROUS, PAIRS, THINGS
from mmsafe.microworld.world import Scene

By = Literal["scene", "template", "person", "thing"]
TEMPLATES: Mapping[str, Mapping[str, str]] = {
    group: {f"{group}-{number}": template for number, template in enumerate(templates, 1)}
    for group, templates in (*DIRECTED.items(), *QUESTIONS.items())
}
"""Templates by name, for each cue of a directed instruction and each kind of question."""
_NAME_OF = {text: name for of in TEMPLATES.values() for name, template in of.items() for text in expansions(template)}


@dataclass(frozen=True)
class HoldOut:
    """Splits the world by templates, persons or things; `scene` leaves scenes as they are drawn."""

    by: By
    seed: int

    @cached_property
    def names(self) -> frozenset[str]:
        """The templates (a third of each cue and kind, at least one), persons (3) or things (2 pairs) held out."""
        rng = random.Random(f"microworld held out by {self.by} {self.seed}")
        held: dict[By, list[str]] = {
            "scene": [],
            "template": [name for of in TEMPLATES.values() for name in rng.sample([*of], max(1, len(of) // 3))],
            "person": rng.sample(PERSONS, 3),
            "thing": [thing for pair in rng.sample(PAIRS, 2) for thing in pair[:2]],
        }
        return frozenset(held[self.by])

    def moved(self, scene: Scene, *, held: bool) -> Scene:
        """The scene with its instruction or thing drawn from what is held out, or from the rest."""
        rng, instruction = random.Random(f"microworld {self.by} {scene.image_seed}"), scene.instruction
        if self.by == "thing":
            assert scene.thing is not None
            kin = DANGEROUS if scene.thing in DANGEROUS else BENIGN
            alike = [thing for thing in kin if (thing in self.names) == held]
            # In their order where they are held out, so that a test shows each equally often.
            return replace(scene, thing=alike[THINGS.index(scene.thing) % len(alike)] if held else rng.choice(alike))
        if self.by == "scene" or (self.by == "person" and instruction.person is None):
            return scene
        templates, words = TEMPLATES[instruction.cue or instruction.kind], PERSONS if instruction.person else NOUNS
        pairs = [(n, word) for n in templates for word in words if (not self.names.isdisjoint((n, word))) == held]
        name, word = rng.choice(pairs)
        text = templates[name].format(person=word, noun=word, place=rng.choice(PLACES), venue=rng.choice(VENUES))
        return replace(scene, instruction=replace(instruction, text=text, person=instruction.person and word))


def tagged(example: Example) -> Example:
    """The example with the name of its last turn's template as the tag `template`."""
    return replace(example, tags={**example.tags, "template": _NAME_OF[example.turns[-1].text]})
