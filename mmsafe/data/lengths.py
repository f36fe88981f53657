"""Over-long examples: clipped or dropped by a stated rule, and counted. Image tokens are never cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mmsafe.data.example import Example
from mmsafe.errors import UserError
from mmsafe.settings import Lengths

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder

log = logging.getLogger(__name__)
SLACK = 64
"""Tokens that a chat template and special tokens may add to the text."""


Fate = Literal["fits", "clipped", "dropped", "refused"]


class Tokens(NamedTuple):
    """How long an example is."""

    prompt: int
    """Tokens as the model is shown it, those of the image and special ones included."""
    responses: Mapping[str, int]
    """Tokens of each response, its end-of-sequence token included."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return self.prompt + max(self.responses.values(), default=0)


def token_counts(example: Example, encoder: Encoder, responses: Iterable[str]) -> Tokens:
    """Tokens of the prompt and of the named responses."""
    counts = {name: len(encoder.response_ids(example.responses[name])) for name in responses}
    return Tokens(len(encoder.prompt_ids(example)), counts)


def fate(tokens: Tokens, rule: Lengths) -> Fate:
    """What `rule` makes of an example: as it is, with clipped responses, not at all, or an end of the run.

    Clipping takes from the end of a response only. An example whose prompt leaves a response no room is dropped under
    every rule, one whose chosen response is too long under `clip_others`.
    """
    if rule.max_length is None or tokens.longest <= rule.max_length:
        return "fits"
    if rule.on_overlong == "error":
        return "refused"
    room = rule.max_length - tokens.prompt
    keeps_chosen = rule.on_overlong == "clip" or tokens.responses.get("chosen", 0) <= room
    return "clipped" if rule.on_overlong != "drop" and room > 0 and keeps_chosen else "dropped"


def fitting(
    examples: Sequence[Example], encoder: Encoder, responses: Iterable[str], rule: Lengths
) -> tuple[list[Example], dict[str, int]]:
    """The examples that fit `rule.max_length` tokens, and how many were clipped or dropped.

    Clipping itself happens when a batch is made. Raises `UserError` for `rule.on_overlong=error`.
    """
    report = {"clipped": 0, "dropped": 0}
    if rule.max_length is None:
        return list(examples), report
    names, kept = list(responses), []
    for example in examples:
        if _surely_fits(example, encoder, rule.max_length):
            kept.append(example)
            continue
        tokens = token_counts(example, encoder, names)
        found = fate(tokens, rule)
        if found == "refused":
            excess = tokens.longest - rule.max_length
            raise UserError(f"example {example.id}: {excess} tokens over lengths.max_length={rule.max_length}")
        if found != "fits":
            report[found] += 1
        if found != "dropped":
            kept.append(example)
    if not kept:
        raise UserError(f"lengths.max_length={rule.max_length}: no example fits; raise it")
    log.info("length: %d clipped and %d dropped at %d tokens", report["clipped"], report["dropped"], rule.max_length)
    return kept, report


def _surely_fits(example: Example, encoder: Encoder, limit: int) -> bool:
    """A token covers at least one byte, so short texts fit and need no tokenising."""
    prompt = sum(len(turn.text.encode()) + SLACK for turn in example.turns)
    longest = max(len(text.encode()) for text in example.responses.values())
    return prompt + longest + encoder.image_tokens + SLACK <= limit
