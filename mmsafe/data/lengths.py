"""Over-long examples: clipped or dropped by a stated rule, and counted. Image tokens are never cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmsafe.data.example import Example
from mmsafe.errors import UserError
from mmsafe.settings import Lengths

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder

log = logging.getLogger(__name__)
SLACK = 64
"""Tokens that a chat template and special tokens may add to the text."""


def fitting(
    examples: Sequence[Example], encoder: Encoder, responses: Iterable[str], rule: Lengths
) -> tuple[list[Example], dict[str, int]]:
    """The examples that fit `rule.max_length` tokens, and how many were clipped or dropped.

    Clipping itself happens when a batch is made; it takes from the end of a response only. An example whose prompt
    leaves a response no room is dropped under every rule, one whose chosen response is too long under `clip_others`.
    Raises `UserError` for `rule.on_overlong=error`.
    """
    report = {"clipped": 0, "dropped": 0}
    if rule.max_length is None:
        return list(examples), report
    names, kept = list(responses), []
    for example in examples:
        excess = (
            0 if _surely_fits(example, encoder, rule.max_length) else _excess(example, encoder, names, rule.max_length)
        )
        if excess and rule.on_overlong == "error":
            raise UserError(f"example {example.id}: {excess} tokens over lengths.max_length={rule.max_length}")
        if excess and _unusable(example, encoder, rule.on_overlong, rule.max_length):
            report["dropped"] += 1
            continue
        report["clipped"] += excess > 0
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


def _excess(example: Example, encoder: Encoder, names: Sequence[str], limit: int) -> int:
    longest = max(len(encoder.response_ids(example.responses[name])) for name in names)
    return max(0, len(encoder.prompt_ids(example)) + longest - limit)


def _unusable(example: Example, encoder: Encoder, on_overlong: str, limit: int) -> bool:
    """Whether clipping is not allowed, or would leave nothing."""
    if on_overlong == "drop" or len(encoder.prompt_ids(example)) >= limit:
        return True
    return on_overlong == "clip_others" and _excess(example, encoder, ["chosen"], limit) > 0
