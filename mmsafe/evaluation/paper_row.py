"""A row of a table in the BPO paper (arXiv 2503.14189); each benchmark has those that were measured on it."""

from __future__ import annotations

from typing import NamedTuple

RELEASES = {"base": "LLaVA-1.5", "dpo": "+ DPO", "bpo": "+ BPO"}
"""Of which models the paper prints results."""


class PaperRow(NamedTuple):
    """What the paper printed for each of `RELEASES`, and our metric for it."""

    measure: str
    metric: str
    base: float
    dpo: float
    bpo: float
    unit: float = 1
    """Ours is multiplied by it: 100 where the paper prints per cent."""

    def lines(self) -> dict[str, float]:
        """The values in our unit, by what a figure calls them."""
        return {f"paper, {shown}": getattr(self, release) / self.unit for release, shown in RELEASES.items()}
