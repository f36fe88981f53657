"""Provably robust DPO (Chowdhury et al., arXiv 2403.00409)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.objectives.cdpo import CDPO
from mmsafe.objectives.dpo import preference_loss

if TYPE_CHECKING:
    from torch import Tensor


@options
class RobustDPO(CDPO):
    """[-(1 - ε) log σ(βz) + ε log σ(-βz)] / (1 - 2ε), whose mean over flipped labels is the DPO loss of the true ones.

    Not bounded below: on pairs with a wide margin it is negative.
    """

    def loss(self, margin: Tensor) -> Tensor:
        """The unbiased estimate of the DPO loss."""
        kept, flipped = preference_loss(margin, self.beta), preference_loss(-margin, self.beta)
        return ((1 - self.label_smoothing) * kept - self.label_smoothing * flipped) / (1 - 2 * self.label_smoothing)
