"""Dialogues in which the user's turns are fixed, and which go on from the model's own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field, InstanceOf
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.data.example import Example, Turn

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


class DefendedAnswer(TypedDict):
    """How a defence came to an answer."""

    defence: str
    chosen_by: list[str]
    """Labels of the judges by whose verdicts it chose."""
    first: InstanceOf[str]
    """What the model answered by itself."""
    stepped_in: bool
    """Whether the answer is another than that."""
    generations: Annotated[int, Field(ge=0, lt=2**31)]


class Answer(NamedTuple):
    """What a model answered to a prompt."""

    text: str
    finished: bool
    """Whether it ended by itself, before the length limit."""
    earlier: tuple[str, ...] = ()
    """Its answers to the user's earlier turns, where the prompt leaves them to the model."""
    how: DefendedAnswer | None = None
    """What a defence did to the last answer."""


Answers = Sequence[Answer | None]
"""None for a prompt that was too long to be asked, at any of its turns."""


def unanswered(prompt: Example) -> int:
    """How many turns of the user, the last one not counted, have no answer: another turn of the user follows them."""
    return sum(turn.role == following.role for turn, following in pairwise(prompt.turns))


def completed(prompt: Example, earlier: Sequence[str]) -> Example:
    """The prompt with answers to the first turns of the user that have none."""
    answers, turns = list(earlier), list(prompt.turns[:1])
    for turn in prompt.turns[1:]:
        if answers and turn.role == turns[-1].role:
            text = answers.pop(0).encode("utf-8", "replace").decode()  # a server may send half of a surrogate pair
            turns.append(Turn("assistant", text))
        turns.append(turn)
    return replace(prompt, turns=tuple(turns))


def opening(prompt: Example) -> Example:
    """The prompt up to the first turn of the user that has no answer."""
    both = enumerate(pairwise(prompt.turns), 1)
    turns = prompt.turns[: next((end for end, (a, b) in both if a.role == b.role), len(prompt.turns))]
    return replace(prompt, turns=turns, images=prompt.images[: sum(len(turn.images) for turn in turns)])


def in_turns(prompts: Sequence[Example], ask: Callable[[list[Example]], Sequence[Response | Answer | None]]) -> Answers:
    """The answer to the last turn of every prompt, after all of the user's turns that have none were answered in order.

    `ask` answers prompts, all that wait for an answer at once; None where one is not asked.
    """
    answers: list[Answer | None] = [None] * len(prompts)
    waiting: dict[int, tuple[str, ...]] = dict.fromkeys(range(len(prompts)), ())
    while waiting:
        shown = [opening(completed(prompts[position], earlier)) for position, earlier in waiting.items()]
        current, waiting = waiting, {}
        for (position, earlier), response in zip(current.items(), ask(shown), strict=True):
            if response is not None and len(earlier) < unanswered(prompts[position]):
                waiting[position] = (*earlier, response.text)
            elif response is not None:
                answers[position] = Answer(*response)._replace(earlier=earlier)
    return answers
