"""Odds Ratio Preference Optimization (Hong et al., arXiv 2403.07691)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.options import NonNegative, options
from mmsafe.objectives.base import Objective, Scores, Terms, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor

CERTAIN = -1e-6
"""Upper limit of the log-prob per token, because the odds of p = 1 are infinite."""


def log_odds(log_prob: Tensor) -> Tensor:
    """ln(p / (1 - p)) from ln p, elementwise (eq. 4); 1 - p keeps its precision as p nears 1."""
    return log_prob - log_prob.clamp(max=CERTAIN).expm1().neg().log()


@options
class ORPO(Objective):
    """-log p(y_w) - λ log σ(log odds(y_w) - log odds(y_l)), where p(y) = π(y|x)^(1/|y|); no reference (eqs. 6, 7).

    The first term teaches the chosen response, so training may begin at a model that was not fine-tuned on the task.
    """

    needs_reference: ClassVar[bool] = False
    weight: NonNegative = 0.1
    """λ of the odds-ratio term; TRL calls it beta."""

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"nll": [batch], "odds_ratio": [batch]}`; the first is averaged over the tokens of each response."""
        chosen, rejected = scores["chosen"].mean_log_prob, scores["rejected"].mean_log_prob
        ratio = log_odds(chosen) - log_odds(rejected)
        return {"nll": -chosen, "odds_ratio": self.weight * negative_log_sigmoid(ratio)}

    def reward(self, score: Scores) -> Tensor:
        """λ times the log-prob per token, as TRL logs it."""
        return self.weight * score.mean_log_prob
