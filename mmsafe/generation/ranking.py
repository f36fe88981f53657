"""Pairs of a policy's own samples: of those to one prompt the best and the worst (Yuan et al., arXiv 2401.10020)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation, Lengths
from mmsafe.data.example import Example
from mmsafe.generation.blinding import with_response
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import responses
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import PAIR
from mmsafe.scoring.lengths import fitting

log = logging.getLogger(__name__)
Rates = Callable[[Sequence[tuple[Example, str]]], Sequence[float | None]]
"""How good each of some responses to examples is; None where that cannot be told."""


def with_ranked_pairs(
    vlm: VLM, examples: Sequence[Example], samples: int, settings: Generation, rule: Lengths, rates: Rates
) -> tuple[list[Example], dict[str, int]]:
    """The examples, `chosen` being the best of `samples` responses beside the image and `rejected` the worst.

    Those that they bring are set aside. The counts are of examples that were dropped: `dropped`, whose prompt is too
    long, and `unranked`, whose samples are all as good. Raises `UserError` where none is left.
    """
    bare = [replace(e, responses={n: e.responses[n] for n in e.responses.keys() - PAIR}) for e in examples]
    short, early = fitting([replace(e, cut=e.cut - PAIR.keys()) for e in bare], vlm.encoder(), (), rule)
    repeated, count = short * samples, len(short)
    made = responses(vlm, repeated, settings, "responses to rank")
    rated = rates([(example, response.text) for example, response in zip(repeated, made, strict=True)])
    kept = []
    for position, example in enumerate(short):
        if pair := best_and_worst(made[position::count], rated[position::count]):
            best, worst = pair
            kept.append(with_response(with_response(example, "chosen", best), "rejected", worst))
    unranked = count - len(kept)
    why = f"{unranked} of {count} prompts have no better and worse one among {samples}"
    log.info("responses to rank: %s, and are dropped", why)
    if not kept:
        raise UserError(f"responses to rank: {why}; raise objective.samples, or choose another judge")
    return kept, {"dropped": early["dropped"], "unranked": unranked}


def best_and_worst(made: Sequence[Response], rated: Sequence[float | None]) -> tuple[Response, Response] | None:
    """The first of the best and the first of the worst; None where all that are rated are as good, or none is rated."""
    known = [(rating, response) for rating, response in zip(rated, made, strict=True) if rating is not None]
    best, worst = (by(known, key=itemgetter(0), default=None) for by in (max, min))
    return (best[1], worst[1]) if best and worst and best[0] > worst[0] else None
