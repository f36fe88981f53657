"""Conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.objectives.dpo import DPO, preference_loss

if TYPE_CHECKING:
    from torch import Tensor


@options
class CDPO(DPO):
    """-(1 - ε) log σ(βz) - ε log σ(-βz), where z is the margin and a share ε of the labels is taken to be flipped.

    The minimum is at σ(βz) = 1 - ε: unlike DPO, it does not push a margin any further.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """ε, the share of pairs that are believed to be labelled the wrong way round; 0 is DPO."""

    def loss(self, margin: Tensor) -> Tensor:
        """Cross-entropy with the soft label 1 - ε."""
        kept, flipped = preference_loss(margin, self.beta), preference_loss(-margin, self.beta)
        return (1 - self.label_smoothing) * kept + self.label_smoothing * flipped
