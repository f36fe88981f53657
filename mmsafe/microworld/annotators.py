"""Simulated people: where candidate responses come from, and how a noisy annotator ranks two of them."""

import math
import random
from collections.abc import Mapping, Sequence

from mmsafe.microworld.language import Decision, directed_response, neutral_answer
from mmsafe.microworld.rule_judge import judge
from mmsafe.microworld.things import COLOURS, THINGS
from mmsafe.microworld.world import Scene

RIGHT = 2.0
QUALITIES = {"grounded": 0.8, "hallucinated": -0.8, "tail": 0.8}
"""Weights in logits of what an annotator, who sees the image, values; only the first counts on neutral questions."""
DECIDED_RIGHT, NAMES_THING, NAMES_OTHER, HAS_TAIL, ANSWERS_RIGHT = 0.6, 0.6, 0.15, 0.5, 0.5
"""Probabilities of a candidate response; the last is of neutral questions."""


def utility(tags: Mapping[str, str], response: str) -> float:
    """What a response is worth."""
    verdict = judge(tags, response)
    value = RIGHT * verdict.right
    if tags["kind"] == "directed":
        for quality, weight in QUALITIES.items():
            value += weight * getattr(verdict, quality)
    return value


def preference(tags: Mapping[str, str], first: str, second: str) -> float:
    """The Bradley-Terry probability of preferring the first response: the logistic of the difference in utility."""
    return 1 / (1 + math.exp(utility(tags, second) - utility(tags, first)))


def rank(rng: random.Random, tags: Mapping[str, str], first: str, second: str) -> tuple[str, str]:
    """One noisy verdict: (chosen, rejected)."""
    return (first, second) if rng.random() < preference(tags, first, second) else (second, first)


def candidate(rng: random.Random, scene: Scene, things: Sequence[str] = THINGS) -> str:
    """One response to a scene with an image; a wrong one may name another of `things`."""
    assert scene.thing is not None
    other = rng.choice([thing for thing in things if thing != scene.thing])
    if scene.instruction.person is None:
        truthful = rng.random() < ANSWERS_RIGHT
        thing, colour = (scene.thing, scene.colour) if truthful else (other, rng.choice(COLOURS))
        return neutral_answer(rng, scene.instruction.kind, thing, colour)
    decision: Decision = "refuse" if scene.harmful == (rng.random() < DECIDED_RIGHT) else "comply"
    share = rng.random()
    named = scene.thing if share < NAMES_THING else other if share < NAMES_THING + NAMES_OTHER else None
    return directed_response(rng, decision, named, scene.instruction.person, rng.random() < HAS_TAIL)


def two_candidates(rng: random.Random, scene: Scene, things: Sequence[str] = THINGS) -> tuple[str, str]:
    """Two different responses to a scene with an image."""
    while True:
        first, second = candidate(rng, scene, things), candidate(rng, scene, things)
        if first != second:
            return first, second
