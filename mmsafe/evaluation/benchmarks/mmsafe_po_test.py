"""The test of MMSafe-PO (arXiv 2503.14189): safety rate and pairwise accuracy."""

from __future__ import annotations

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.evaluation.benchmark import CATEGORIES
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts


@options
class MMSafePOTest(OwnPrompts):
    """Every instruction of the test set is answered."""

    name: ClassVar[str] = "mmsafe_po"
    tags: ClassVar[tuple[str, ...]] = ("entity_type", "turns", *CATEGORIES)
