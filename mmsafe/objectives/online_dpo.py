"""Direct Preference Optimization on the policy's own samples, ranked by a judge (Guo et al., arXiv 2402.04792)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.objectives.dpo import DPO


@options
class OnlineDPO(DPO):
    """DPO whose chosen and rejected response are the best and the worst of `samples` (Yuan et al., arXiv 2401.10020).

    A row's own pair is set aside. What the judge cannot tell apart is no pair.
    """

    samples: Annotated[int, Field(ge=2)] = 4

    @property
    def ranked(self) -> int:
        """All of them."""
        return self.samples
