"""Identity Preference Optimization (Azar et al., arXiv 2310.12036)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from mmsafe.core.options import options
from mmsafe.objectives.base import Scores, Terms
from mmsafe.objectives.dpo import DPO

if TYPE_CHECKING:
    from torch import Tensor


@options
class IPO(DPO):
    """(z - 1/(2β))² with the margin z of log-ratios: a margin may be too wide as well as too narrow (eq. 17, τ = β)."""

    log_ratio: Literal["mean", "sum"] = "mean"
    """How log-ratios are reduced over the tokens of a response. `mean`: what the paper's results were obtained with, by
    its authors' word to TRL; `sum`: what the paper writes."""

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch]}`."""
        if self.log_ratio == "sum":
            return super().__call__(scores)
        return {"preference": self.loss(scores["chosen"].mean_log_ratio - scores["rejected"].mean_log_ratio)}

    def loss(self, margin: Tensor) -> Tensor:
        """Squared distance of the margin from its target."""
        return (margin - 1 / (2 * self.beta)).square()

    @property
    def start(self) -> Mapping[str, float]:
        """1/(4β²), because the margin is zero."""
        return {"preference": 1 / (4 * self.beta**2)}
