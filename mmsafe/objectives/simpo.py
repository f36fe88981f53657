"""Simple Preference Optimization (Meng et al., arXiv 2405.14734)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.options import NonNegative, Positive, options
from mmsafe.objectives.base import Objective, Scores, Terms, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


@options
class SimPO(Objective):
    """-log σ(r(x, y_w) - r(x, y_l) - γ) with r(x, y) = β/|y| log π(y|x); needs no reference (eq. 6)."""

    needs_reference: ClassVar[bool] = False
    beta: Positive = 2.0
    """Scale of the reward, nats per token; larger than DPO's, because a mean is smaller than a sum."""
    gamma: NonNegative = 0.5
    """Margin of rewards that the chosen response should reach: the paper's γ. The paper tunes the ratio γ/β, which its
    code calls `gamma_beta_ratio`; the defaults here give its 0.25."""

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch]}`."""
        margin = self.reward(scores["chosen"]) - self.reward(scores["rejected"])
        return {"preference": negative_log_sigmoid(margin - self.gamma)}

    def reward(self, score: Scores) -> Tensor:
        """The reward β/|y| log π(y|x), `[batch]`."""
        return self.beta * score.mean_log_prob
