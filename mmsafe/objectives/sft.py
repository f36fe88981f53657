"""Supervised fine-tuning."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from mmsafe.core.options import options
from mmsafe.objectives.base import Objective, Rows, ScoredRow, Scores, Terms


@options
class SFT(Objective):
    """Negative log-likelihood of the chosen response, response tokens only."""

    needs_reference: ClassVar[bool] = False
    average: Literal["token", "sequence"] = "token"

    @property
    def groups(self) -> tuple[Rows, ...]:
        """One row: the chosen response."""
        return ({"chosen": ScoredRow("chosen")},)

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"nll": [batch]}`, averaged over the tokens of each response."""
        return {"nll": -scores["chosen"].mean_log_prob}

    @property
    def tokens_of(self) -> str | None:
        """The chosen response if `average` is `token`, else None."""
        return "chosen" if self.average == "token" else None
