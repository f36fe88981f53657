"""Over-long examples are clipped or dropped by rule, those with nothing to tell apart left out, and all are counted."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Lengths
from mmsafe.data.example import Example
from mmsafe.objectives.base import PAIR, Rows

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder

log = logging.getLogger(__name__)
SLACK = 64
"""Tokens that a chat template and special tokens may add to the text."""
Fate = Literal["fits", "clipped", "dropped", "refused", "equal"]


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

    @property
    def needed(self) -> int:
        """Tokens that have to fit: a prompt without responses leaves room for one token of an answer."""
        return max(self.longest, self.prompt + 1)


def token_counts(example: Example, encoder: Encoder, responses: Iterable[str]) -> Tokens:
    """Tokens of the prompt and of those of the named responses that there are."""
    texts = {name: example.responses[name] for name in responses if name in example.responses}
    return Tokens(len(encoder.prompt_ids(example)), {name: len(encoder.response_ids(texts[name])) for name in texts})


def fate(tokens: Tokens, rule: Lengths) -> Fate:
    """What `rule` makes of an example: as it is, with clipped responses, not at all, or an end of the run.

    Clipping takes from the end of a response only. An example whose prompt leaves a response no room is dropped under
    every rule, one whose chosen response is too long under `clip_others`.
    """
    if rule.max_length is None or tokens.needed <= rule.max_length:
        return "fits"
    if rule.on_overlong == "error":
        return "refused"
    room = rule.max_length - tokens.prompt
    keeps_chosen = rule.on_overlong == "clip" or tokens.responses.get("chosen", 0) <= room
    return "clipped" if rule.on_overlong != "drop" and room > 0 and keeps_chosen else "dropped"


def fitting(
    examples: Sequence[Example],
    encoder: Encoder,
    responses: Collection[str],
    rule: Lengths,
    groups: Sequence[Rows] = (),
) -> tuple[list[Example], dict[str, int]]:
    """The examples that can be trained on, and how many were clipped, dropped, or left out as `equal`.

    The last are counted by `groups`: an example goes where none of its groups has anything to tell apart. Responses
    that are yet to be made do not count; without any, a prompt has to leave room for one. Clipping itself happens when
    a batch is made. Raises `UserError` for `rule.on_overlong=error`, and where nothing is left.
    """
    report, kept = {"clipped": 0, "dropped": 0, "equal": 0}, []
    for example in examples:
        outcome = _fate_of(example, encoder, responses, rule)
        equal = 0 if outcome == "dropped" else sum(is_equal(example, rows, encoder, rule.max_length) for rows in groups)
        report["equal"] += equal
        if groups and equal == len(groups):
            continue
        if outcome != "fits":
            report[outcome] += 1
        if outcome != "dropped":
            kept.append(example)
    if examples and not kept:
        why = f"; of {report['equal']} the responses are equal when clipped" if report["equal"] else ""
        raise UserError(f"lengths.max_length={rule.max_length}: no example fits{why}; raise it")
    return kept, report


def is_equal(example: Example, rows: Rows, encoder: Encoder, limit: int | None) -> bool:
    """Whether a group of several rows is the same tokens in each, beside one view of the image, within `limit`.

    Such rows are told apart by nothing but rounding, which Adam scales up as it does any gradient.
    """
    if len(rows) < 2 or len({row.image for row in rows.values()}) > 1:
        return False
    endings = {(example.responses[row.response].strip(), row.response in example.cut) for row in rows.values()}
    if len(endings) == 1 or limit is None or _surely_fits(example, encoder, limit):
        return len(endings) == 1
    blind = next(iter(rows.values())).image == "none"
    room = max(1, limit - len(encoder.prompt_ids(example.blinded() if blind else example)))
    return len({tuple(encoder.response_ids(text, cut=cut)[:room]) for text, cut in endings}) == 1


def is_equal_pair(example: Example, encoder: Encoder, limit: int | None) -> bool:
    """Whether chosen and rejected response are the same tokens within `limit`."""
    return example.responses.keys() >= PAIR.keys() and is_equal(example, PAIR, encoder, limit)


def equal_items(
    examples: Sequence[Example], groups: Sequence[Rows], encoder: Encoder, limit: int | None
) -> frozenset[int]:
    """Positions of the training items in which nothing is to be told apart; item g of example i is i * groups + g."""
    equal = [is_equal(example, rows, encoder, limit) for example in examples for rows in groups]
    return frozenset(position for position, is_so in enumerate(equal) if is_so)


def overlong(
    examples: Sequence[Example], encoder: Encoder, rule: Lengths, responses: Collection[str] = ()
) -> frozenset[int]:
    """Positions of the examples that do not fit whole: an evaluation clips nothing.

    Raises `UserError` for `rule.on_overlong=error`.
    """
    whole = rule if rule.on_overlong == "error" else replace(rule, on_overlong="drop")
    fates = (_fate_of(example, encoder, responses, whole) for example in examples)
    return frozenset(position for position, outcome in enumerate(fates) if outcome == "dropped")


def tell(report: Mapping[str, int], rule: Lengths) -> None:
    """Log what `fitting` counted."""
    line = "length: %d clipped and %d dropped at %s tokens, %d left out whose responses are equal"
    log.info(line, report["clipped"], report["dropped"], rule.max_length, report["equal"])


def _fate_of(example: Example, encoder: Encoder, responses: Collection[str], rule: Lengths) -> Fate:
    """What becomes of an example; short ones are not tokenised. Raises `UserError` where the rule ends the run."""
    if rule.max_length is None or _surely_fits(example, encoder, rule.max_length):
        return "fits"
    tokens = token_counts(example, encoder, responses)
    if (outcome := fate(tokens, rule)) == "refused":
        excess = tokens.needed - rule.max_length
        raise UserError(f"example {example.id}: {excess} tokens over lengths.max_length={rule.max_length}")
    return outcome


def _surely_fits(example: Example, encoder: Encoder, limit: int) -> bool:
    """A token covers at least one byte, so short texts fit and need no tokenising."""
    prompt = sum(len(turn.text.encode()) + SLACK for turn in example.turns)
    longest = max((len(text.encode()) for text in example.responses.values()), default=1)
    images = sum(place.tokens for place in encoder.places(example.images))
    return prompt + longest + images + SLACK <= limit
