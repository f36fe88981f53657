"""A judge that finds some answers of a model with random weights better than others."""

from __future__ import annotations

from dataclasses import replace

from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.microworld.rule_judge import Rules


@options
class EvenIsRight(Rules):
    """Right is what has an even number of characters; all else is as the rules say."""

    def __call__(self, example: Example, response: str) -> Verdict:
        verdict = super().__call__(example, response)
        return replace(verdict, details={**verdict.details, "right": len(response) % 2 == 0})


CHOSEN = ("plugins=[even_judge]", "judge._target_=even_judge.EvenIsRight")
