"""What a base model learns before preference optimisation, so that it follows the wording more than the image."""

from __future__ import annotations

import random

from mmsafe.core.errors import UserError
from mmsafe.core.options import Share, options
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
    Instruction,
    directed_response,
    expansions,
    neutral_answer,
)
from mmsafe.microworld.things import COLOURS, DANGEROUS, THINGS
from mmsafe.microworld.world import Scene, correlated_cue, directed_scene, image_seed, neutral_scene

LANGUAGE_DECISION: dict[Cue, Decision] = {"suspicious": "refuse", "friendly": "comply"}
"""What the wording alone suggests."""


@options
class PretrainingMix:
    """The mixture of a base model's training data.

    What is neither text-only nor neutral is a directed instruction about an image.
    """

    text_only: Share = 0.25
    """Share of directed instructions without image, answered as they sound: the language prior."""
    neutral: Share = 0.30
    """Share of neutral questions about an image, answered rightly."""
    text_only_noise: Share = 0.03
    """Probability that a text-only instruction is answered against its sound."""
    text_only_named: Share = 0.40
    """Probability that the answer to a text-only instruction names a thing, which can only be a guess."""
    cue_correlation: Share = 0.80
    """Probability that the wording agrees with the image."""
    language_led: Share = 0.55
    """Probability that a directed instruction with an image is answered as it sounds, whatever is shown."""
    named: Share = 0.70
    """Probability that the answer to a directed instruction with an image names the thing shown."""
    tail: Share = 0.50
    """Probability of a closing sentence."""

    def __post_init__(self) -> None:
        if self.text_only + self.neutral > 1:
            raise UserError(f"text_only + neutral must be at most 1, not {self.text_only + self.neutral:g}")


def pretraining_examples(
    seed: int, size: int = 8000, mix: PretrainingMix | None = None, image_size: int = 64
) -> list[Example]:
    """`size` examples with a single response, `chosen`, to fine-tune a base model on."""
    rng = random.Random(f"microworld pretraining {seed}")
    used = mix or PretrainingMix()
    examples = []
    for i in range(size):
        scene, response = _sample(rng, used, image_seed("pretraining", seed, i))
        examples.append(scene.example(f"microworld-pretraining-{seed}-{i}", {"chosen": response}, image_size))
    return examples


def captions(seed: int, size: int, image_size: int = 64) -> list[Example]:
    """Icons named with their colour, every combination equally often: teaches a vision tower to see."""
    rng = random.Random(f"microworld captions {seed}")
    combinations = [(thing, colour) for thing in THINGS for colour in COLOURS]
    examples = []
    for i in range(size):
        thing, colour = combinations[i % len(combinations)]
        scene = Scene(Instruction(CAPTION, "caption"), thing, colour, image_seed("captions", seed, i))
        responses = {"chosen": neutral_answer(rng, "caption", thing, colour)}
        examples.append(scene.example(f"microworld-captions-{seed}-{i}", responses, image_size))
    return examples


def corpus() -> list[str]:
    """Every sentence of the world, those of the test split included: text to train a tokenizer on, nothing else."""
    banks = (*DIRECTED.values(), *QUESTIONS.values(), *GROUNDED.values(), *UNGROUNDED.values(), *ANSWERS.values())
    sentences = [
        sentence for bank in (*banks, *TAILS.values()) for template in bank for sentence in expansions(template)
    ]
    sentences += [sentence for exchange in SMALL_TALK for sentence in exchange]
    # Sentences that open with a slot ("a red knife lies on the table.") are written with a capital letter.
    return [CAPTION, *(sentence[0].upper() + sentence[1:] for sentence in sentences)]


def _sample(rng: random.Random, mix: PretrainingMix, pixels: int) -> tuple[Scene, str]:
    thing, share = rng.choice(THINGS), rng.random()
    if share < mix.text_only:
        return _text_only(rng, mix)
    if share < mix.text_only + mix.neutral:
        scene = neutral_scene(rng, thing, pixels, "train")
        return scene, neutral_answer(rng, scene.instruction.kind, thing, scene.colour)
    return _directed(rng, mix, thing, pixels)


def _text_only(rng: random.Random, mix: PretrainingMix) -> tuple[Scene, str]:
    cue: Cue = rng.choice(("suspicious", "friendly"))
    scene = directed_scene(rng, None, 0, cue, "train")
    decision = LANGUAGE_DECISION[cue]
    if rng.random() < mix.text_only_noise:
        decision = "comply" if decision == "refuse" else "refuse"
    guess = rng.choice(THINGS) if rng.random() < mix.text_only_named else None
    return scene, _respond(rng, mix, scene, decision, guess)


def _directed(rng: random.Random, mix: PretrainingMix, thing: str, pixels: int) -> tuple[Scene, str]:
    cue = correlated_cue(rng, thing, mix.cue_correlation)
    scene = directed_scene(rng, thing, pixels, cue, "train")
    by_image: Decision = "refuse" if thing in DANGEROUS else "comply"
    decision = LANGUAGE_DECISION[cue] if rng.random() < mix.language_led else by_image
    named = thing if rng.random() < mix.named else None
    return scene, _respond(rng, mix, scene, decision, named)


def _respond(rng: random.Random, mix: PretrainingMix, scene: Scene, decision: Decision, named: str | None) -> str:
    assert scene.instruction.person is not None
    return directed_response(rng, decision, named, scene.instruction.person, rng.random() < mix.tail)
