"""Blind responses: what the reference model says when it cannot see the image (arXiv 2503.14189)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mmsafe.data.example import Example
from mmsafe.data.responses import responses
from mmsafe.generation import Response
from mmsafe.models.llava import Llava
from mmsafe.settings import Generation

log = logging.getLogger(__name__)
COLUMN = "blind"


def with_blind_responses(llava: Llava, examples: Sequence[Example], settings: Generation) -> list[Example]:
    """Every example with a `blind` response; one that a row brought itself is used as it is.

    `settings.image_view=real` shows the image at generation: the sighted control.
    """
    lacking = [example for example in examples if COLUMN not in example.responses]
    prompts = [example.blinded() if settings.image_view == "none" else example for example in lacking]
    label = "blind responses" if settings.image_view == "none" else "sighted responses"
    made = responses(llava, prompts, settings, label)
    own, cut = len(examples) - len(lacking), sum(not response.finished for response in made)
    empty = sum(not response.text for response in made)
    log.info(
        "%s: %d from the rows themselves, %d cut at %d tokens, %d empty",
        label,
        own,
        cut,
        settings.max_new_tokens,
        empty,
    )
    new = iter(made)
    return [example if COLUMN in example.responses else _with(example, next(new)) for example in examples]


def _with(example: Example, response: Response) -> Example:
    cut = example.cut if response.finished else example.cut | {COLUMN}
    return replace(example.with_responses(**{COLUMN: response.text}), cut=cut)
