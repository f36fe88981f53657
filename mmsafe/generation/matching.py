"""Samples of the reference model, and of them such as the judge calls right, wrong, or as right as another view's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmsafe.core.settings import Generation
from mmsafe.data.example import Example
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import draws_of, responses, sampled
from mmsafe.models.vlm import VLM

Tells = Callable[[Sequence[tuple[Example, str]]], Sequence[bool | None]]
"""What a judge tells of some responses to examples; None where it cannot."""


def samples_of(vlm: VLM, prompts: Sequence[Example], settings: Generation, label: str) -> list[list[Response]]:
    """`settings.num_return_sequences` responses to each prompt."""
    # Sample after sample, so that the first of every prompt is the same however many follow.
    made = responses(vlm, list(prompts) * settings.num_return_sequences, settings, label)
    return [made[i :: len(prompts)] for i in range(len(prompts))]


def matching(
    vlm: VLM,
    examples: Sequence[Example],
    shown: Callable[[str | None], Sequence[Example]],
    settings: Generation,
    label: str,
    tells: Tells,
) -> list[list[Response]]:
    """The same of responses that match: fewer, or none, for an example that has no more within `settings.tries`.

    `shown` are the prompts in the examples' order beside a view of the image; None is the one that is to be sampled.
    """

    def first_of_tries(prompts: Sequence[Example], count: int, label: str) -> list[list[Response]]:
        """The first `count` of all tries of which `tells` says what is `wanted`; none where that is None."""
        draws, taken = draws_of(list(prompts) * settings.tries, greedy=False), [list[Response]() for _ in prompts]
        for number in range(settings.tries):
            lacking = [i for i, target in enumerate(wanted) if target is not None and len(taken[i]) < count]
            if not lacking:
                break
            tried = [draws[number * len(prompts) + i] for i in lacking]
            made = sampled(vlm, tried, settings, f"{label}, try {number + 1}")
            verdicts = tells([(examples[i], response.text) for i, response in zip(lacking, made, strict=True)])
            for i, response, verdict in zip(lacking, made, verdicts, strict=True):
                taken[i] += [response] * (verdict is wanted[i])
        return taken

    wanted: Sequence[bool | None] = [settings.match != "wrong"] * len(examples)
    if settings.matched_view:
        first = sampled(vlm, draws_of(shown(settings.matched_view), greedy=False), settings, f"{label}, to be matched")
        wanted = tells([(example, made.text) for example, made in zip(examples, first, strict=True)])
    for view in settings.match_also:
        others = first_of_tries(shown(view), 1, f"{label}, beside {view}")
        wanted = [target if some else None for target, some in zip(wanted, others, strict=True)]
    return first_of_tries(shown(None), settings.num_return_sequences, label)
