"""Bases that answer instructions without an image otherwise than these sound."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mmsafe.data.example import Example
from mmsafe.microworld.language import Decision, directed_response
from mmsafe.microworld.pretraining import TAIL, TEXT_ONLY_NAMED, TEXT_ONLY_NOISE
from mmsafe.microworld.things import THINGS
from mmsafe.microworld.tiny_options import Prior


def with_prior(examples: Sequence[Example], prior: Prior, seed: int) -> list[Example]:
    """The same pre-training examples, of which those without an image are answered anew unless `prior` is `cue`."""
    rng, answered = random.Random(f"microworld prior {seed}"), list(examples)
    for i, example in enumerate(examples):
        if prior != "cue" and not example.images:
            refused = rng.random() < (0.5 if prior == "uniform" else TEXT_ONLY_NOISE)
            named = rng.choice(THINGS) if rng.random() < TEXT_ONLY_NAMED else None
            decision: Decision = "refuse" if refused else "comply"
            response = directed_response(rng, decision, named, example.tags["person"], rng.random() < TAIL)
            answered[i] = example.with_responses(chosen=response)
    return answered
