"""Prompts that have room for an answer are asked, turn by turn where the answers between are left to the model."""

import logging
from collections.abc import Callable, Sequence

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Lengths
from mmsafe.data.example import Example
from mmsafe.evaluation.dialogue import Answer, Answers, in_turns, opening
from mmsafe.evaluation.measuring import EvaluationTask
from mmsafe.generation.generate import Response
from mmsafe.models.vlm import VLM
from mmsafe.scoring.lengths import overlong

log = logging.getLogger(__name__)


def answered(
    vlm: VLM,
    task: EvaluationTask,
    prompts: Sequence[Example],
    ask: Callable[[list[Example]], Sequence[Response | Answer]],
) -> Answers:
    """What `ask` answers to every prompt, turn by turn where that is left to the model, if there is room for answers.

    Raises `UserError` where `task.lengths` refuses a prompt.
    """

    def fitting(shown: list[Example]) -> list[Response | Answer | None]:
        long = _too_long(shown, vlm, task.lengths)
        made = iter(ask([prompt for position, prompt in enumerate(shown) if position not in long]))
        return [None if position in long else next(made) for position in range(len(shown))]

    return in_turns(prompts, fitting)


def too_long(prompts: Sequence[Example], vlm: VLM, lengths: Lengths) -> frozenset[int]:
    """Positions of the prompts that leave no room for an answer to what is asked first, told in the log.

    Raises `UserError` where `lengths` refuses them, or where no other is left.
    """
    long = _too_long(prompts, vlm, lengths)
    refuse_none(prompts, len(prompts) - len(long), lengths)
    return long


def refuse_none(prompts: Sequence[Example], left: int, lengths: Lengths) -> None:
    """Raise `UserError` if of some prompts none is left that has an answer, or room for one."""
    if prompts and not left:
        raise UserError(f"lengths.max_length={lengths.max_length}: no prompt of the evaluation fits; raise it")


def _too_long(prompts: Sequence[Example], vlm: VLM, lengths: Lengths) -> frozenset[int]:
    long = overlong([opening(prompt) for prompt in prompts], vlm.encoder(), lengths)
    if long:
        line = "%d of %d prompts are not asked: they leave no room within lengths.max_length=%d"
        log.warning(line, len(long), len(prompts), lengths.max_length)
    return long
