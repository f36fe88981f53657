"""What a base model learns before preference optimisation, so that it follows the wording more than the image."""

from __future__ import annotations

import random

from mmsafe.data.example import Example
from mmsafe.microworld.language import (
    ANSWERS,
    CAPTION,
    DIRECTED,
    GROUNDED,
    QUESTIONS,
    SMALL_TALK,
    TAILS,
    UNGROUNDED,
    Cue,
    Decision,
    directed_response,
    expansions,
    neutral_answer,
)
from mmsafe.microworld.things import DANGEROUS, THINGS
from mmsafe.microworld.world import Scene, correlated_cue, directed_scene, image_seed, neutral_scene

LANGUAGE_DECISION: dict[Cue, Decision] = {"suspicious": "refuse", "friendly": "comply"}
"""What the wording alone suggests."""
TEXT_ONLY, NEUTRAL = 0.25, 0.30
"""Shares of directed instructions without image, and of neutral questions about one; the rest is directed at images."""
TEXT_ONLY_NOISE, TEXT_ONLY_NAMED = 0.03, 0.40
"""Probabilities that a text-only instruction is answered against its sound, and that the answer guesses a thing."""
CUE_CORRELATION = 0.80
"""Probability that the wording agrees with the image."""
LANGUAGE_LED = 0.55
"""Probability that a directed instruction with an image is answered as it sounds, whatever is shown."""
NAMED, TAIL = 0.70, 0.50
"""Probabilities that such an answer names the thing shown, and that any answer has a closing sentence."""


def pretraining_examples(seed: int, size: int = 8000, image_size: int = 64) -> list[Example]:
    """`size` examples with a single response, `chosen`, to fine-tune a base model on."""
    rng = random.Random(f"microworld pretraining {seed}")
    examples = []
    for i in range(size):
        scene, response = _sample(rng, image_seed("pretraining", seed, i))
        examples.append(scene.example(f"microworld-pretraining-{seed}-{i}", {"chosen": response}, image_size))
    return examples


def corpus() -> list[str]:
    """Every sentence of the world, those of the test split included: text to train a tokenizer on, nothing else."""
    banks = (DIRECTED, QUESTIONS, GROUNDED, UNGROUNDED, ANSWERS, TAILS)
    templates = [template for bank in banks for of_kind in bank.values() for template in of_kind]
    sentences = [sentence for template in templates for sentence in expansions(template)]
    sentences += [sentence for exchange in SMALL_TALK for sentence in exchange]
    # Sentences that open with a slot ("a red knife lies on the table.") are written with a capital letter.
    return [CAPTION, *(sentence[0].upper() + sentence[1:] for sentence in sentences)]


def _sample(rng: random.Random, pixels: int) -> tuple[Scene, str]:
    thing, share = rng.choice(THINGS), rng.random()
    if TEXT_ONLY <= share < TEXT_ONLY + NEUTRAL:
        scene = neutral_scene(rng, thing, pixels, "train")
        return scene, neutral_answer(rng, scene.instruction.kind, thing, scene.colour)
    cue: Cue
    if share < TEXT_ONLY:
        cue = rng.choice(("suspicious", "friendly"))
        scene = directed_scene(rng, None, 0, cue, "train")
        decision = LANGUAGE_DECISION[cue]
        if rng.random() < TEXT_ONLY_NOISE:
            decision = "comply" if decision == "refuse" else "refuse"
        named = rng.choice(THINGS) if rng.random() < TEXT_ONLY_NAMED else None
    else:
        cue = correlated_cue(rng, thing, CUE_CORRELATION)
        scene = directed_scene(rng, thing, pixels, cue, "train")
        by_image: Decision = "refuse" if thing in DANGEROUS else "comply"
        decision = LANGUAGE_DECISION[cue] if rng.random() < LANGUAGE_LED else by_image
        named = thing if rng.random() < NAMED else None
    assert scene.instruction.person is not None
    return scene, directed_response(rng, decision, named, scene.instruction.person, rng.random() < TAIL)
