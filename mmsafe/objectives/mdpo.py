"""mDPO: conditional preference optimisation for multimodal models (Wang et al., arXiv 2406.11839)."""

import math
from collections.abc import Mapping
from typing import ClassVar

from mmsafe.core.options import NonNegative, options
from mmsafe.objectives.base import LN2, PAIR, Rows, ScoredRow, Scores, Terms, negative_log_sigmoid
from mmsafe.objectives.dpo import DPO, preference_loss


@options
class MDPO(DPO):
    """DPO - log σ(r(v, y_w) - r(v', y_w)) - log σ(r(v, y_w) - δ), where v' is the image v corrupted.

    The second term prefers the image for the response, so that it cannot be learnt from text alone; the third, an
    anchor, keeps the chosen response from becoming less likely while the margin grows. Of an example without an image
    the second term is ln 2 and has no gradient.
    """

    needs_image: ClassVar[bool] = True
    image_weight: NonNegative = 1.0
    """Weight of the image term; the paper's is 1."""
    anchor_weight: NonNegative = 1.0
    """Weight of the anchor term; the paper's is 1."""
    anchor_margin: NonNegative = 0.0
    """δ, the reward that the chosen response should exceed; the paper's is 0."""

    @property
    def groups(self) -> tuple[Rows, ...]:
        """The pair, and the chosen response beside the corrupted image."""
        return ({**PAIR, "corrupted": ScoredRow("chosen", "corrupted")},)

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch], "image": [batch], "anchor": [batch]}`."""
        chosen = scores["chosen"]
        image = preference_loss(chosen.log_ratio - scores["corrupted"].log_ratio, self.beta)
        anchor = negative_log_sigmoid(self.reward(chosen) - self.anchor_margin)
        terms = super().__call__(scores)
        return {**terms, "image": self.image_weight * image, "anchor": self.anchor_weight * anchor}

    @property
    def start(self) -> Mapping[str, float]:
        """ln 2 for each preference term and ln(1 + e^δ) for the anchor, because all margins are zero."""
        anchor = self.anchor_margin + math.log1p(math.exp(-self.anchor_margin))
        return {**super().start, "image": self.image_weight * LN2, "anchor": self.anchor_weight * anchor}
