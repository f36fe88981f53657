"""Hinge loss on the DPO margin (RSO, Liu et al., arXiv 2309.06657; the loss of SLiC-HF, arXiv 2305.10425)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.objectives.dpo import DPO

if TYPE_CHECKING:
    from torch import Tensor


@options
class Hinge(DPO):
    """max(0, 1 - βz): the margin z is pushed up to 1/β nats and no further.

    SLiC-HF has the same hinge on log-probs; taking them relative to a reference, as here, is RSO's step.
    """

    def loss(self, margin: Tensor) -> Tensor:
        """The hinge of a margin in nats, elementwise; zero and without gradient where the margin is wide enough."""
        return (1 - self.beta * margin).relu()

    @property
    def start(self) -> Mapping[str, float]:
        """1, because the margin is zero."""
        return {"preference": 1.0}
