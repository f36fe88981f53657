"""DPO with a supervised term, as in iterative reasoning preference optimisation (Pang et al., arXiv 2404.19733)."""

from collections.abc import Mapping

from mmsafe.core.options import NonNegative, options
from mmsafe.objectives.base import Scores, Terms
from mmsafe.objectives.dpo import DPO


@options
class DPOWithSFT(DPO):
    """DPO - α/|y_w| log π(y_w|x): the chosen response stays likely while the margin grows (eq. 1)."""

    sft_weight: NonNegative = 1.0
    """α, the weight of the supervised term; 0 is DPO."""

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch], "nll": [batch]}`; the second is averaged over the tokens of each response."""
        return {**super().__call__(scores), "nll": -self.sft_weight * scores["chosen"].mean_log_prob}
