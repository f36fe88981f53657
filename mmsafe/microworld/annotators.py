"""Simulated people: where candidate responses come from, and how a noisy annotator ranks two of them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from mmsafe.microworld.language import Decision, directed_response, neutral_answer
from mmsafe.microworld.rules import judge
from mmsafe.microworld.things import COLOURS, THINGS
from mmsafe.microworld.world import Scene


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """A Bradley-Terry annotator who sees the image; the weights of a response's qualities are in logits."""

    right: float = 2.0
    grounded: float = 0.8
    hallucinated: float = -0.8
    tail: float = 0.8

    def utility(self, tags: Mapping[str, str], response: str) -> float:
        """What the response is worth; on neutral questions only a right answer counts."""
        judgement = judge(tags, response)
        value = self.right * judgement.right
        if tags["kind"] == "directed":
            value += self.grounded * judgement.grounded
            value += self.hallucinated * judgement.hallucinated
            value += self.tail * judgement.tail
        return value

    def preference(self, tags: Mapping[str, str], first: str, second: str) -> float:
        """The probability of preferring the first response: the logistic of the difference in utility."""
        return 1 / (1 + math.exp(self.utility(tags, second) - self.utility(tags, first)))

    def rank(self, rng: random.Random, tags: Mapping[str, str], first: str, second: str) -> tuple[str, str]:
        """One noisy verdict: (chosen, rejected)."""
        return (first, second) if rng.random() < self.preference(tags, first, second) else (second, first)


@dataclass(frozen=True, kw_only=True)
class CandidatePool:
    """Where the two responses of a pair come from; the fields are probabilities."""

    right: float = 0.6
    grounded: float = 0.6
    wrong_thing: float = 0.15
    tail: float = 0.5
    neutral_right: float = 0.5

    def draw(self, rng: random.Random, scene: Scene) -> str:
        """One candidate response to a scene."""
        if scene.thing is None:
            raise ValueError("candidates are drawn for scenes with an image")
        other = rng.choice([thing for thing in THINGS if thing != scene.thing])
        if scene.instruction.person is None:
            truthful = rng.random() < self.neutral_right
            thing, colour = (scene.thing, scene.colour) if truthful else (other, rng.choice(COLOURS))
            return neutral_answer(rng, scene.instruction.kind, thing, colour)
        refuse = scene.harmful == (rng.random() < self.right)
        decision: Decision = "refuse" if refuse else "comply"
        share = rng.random()
        named = scene.thing if share < self.grounded else other if share < self.grounded + self.wrong_thing else None
        return directed_response(rng, decision, named, scene.instruction.person, rng.random() < self.tail)

    def draw_two(self, rng: random.Random, scene: Scene) -> tuple[str, str]:
        """Two different candidates."""
        for _ in range(1000):
            first, second = self.draw(rng, scene), self.draw(rng, scene)
            if first != second:
                return first, second
        raise ValueError(f"this pool has only one response to {scene.instruction.text!r}: {first!r}")
