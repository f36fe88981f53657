"""Direct Preference Optimization (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmsafe.core.options import Positive, options
from mmsafe.objectives.base import LN2, Objective, Scores, Terms, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


def preference_loss(margin: Tensor, beta: float) -> Tensor:
    """-log σ(β · margin), where margin = log-ratio of the better minus that of the worse response (2305.18290, eq. 7).

    Elementwise over any shape; margins in nats.
    """
    return negative_log_sigmoid(beta * margin)


@options
class DPO(Objective):
    """-log σ(r(x, y_w) - r(x, y_l)) with r(x, y) = β [log π(y|x) - log π_ref(y|x)]."""

    beta: Positive = 0.1

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch]}`."""
        return {"preference": self.loss(scores["chosen"].log_ratio - scores["rejected"].log_ratio)}

    def loss(self, margin: Tensor) -> Tensor:
        """The preference term of margins in nats, elementwise: all that many relatives of DPO change."""
        return preference_loss(margin, self.beta)

    def reward(self, score: Scores) -> Tensor:
        """The implicit reward r(x, y), `[batch]`."""
        return self.beta * score.log_ratio

    @property
    def start(self) -> Mapping[str, float]:
        """ln 2, because the margin is zero."""
        return {"preference": LN2}
