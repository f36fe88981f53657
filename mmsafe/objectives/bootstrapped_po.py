"""Bootstrapped Preference Optimization (Pi et al., arXiv 2403.08730); not the blind BPO of `bpo.py`."""

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.objectives.base import PAIR, Rows, ScoredRow
from mmsafe.objectives.dpo import DPO


@options
class BootstrappedPO(DPO):
    """DPO whose rejected response is the reference model's own, generated beside a weakened image.

    Both responses are scored beside the real image. Of the paper's two kinds of negatives this is the first; the
    second, errors written into a response by a language model, is data: put it in `weakened`.
    """

    needs_image: ClassVar[bool] = True

    @property
    def groups(self) -> tuple[Rows, ...]:
        """Chosen and, in the place of rejected, weakened."""
        return ({**PAIR, "rejected": ScoredRow("weakened")},)
