"""The test of MMSafe-PO (arXiv 2503.14189): safety rate and pairwise accuracy."""

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.evaluation.benchmark import CATEGORIES, PaperRow
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts


@options
class MMSafePOTest(OwnPrompts):
    """Every instruction of the test set is answered."""

    name = "mmsafe_po"
    tags: ClassVar[tuple[str, ...]] = ("entity_type", "turns", *CATEGORIES)
    paper_rows = (
        PaperRow("safety rate", "eval/safety_rate", 0.6145, 0.8218, 0.8909),
        PaperRow("pairwise accuracy", "eval/pairwise_accuracy_prompted", 0.4327, 0.4473, 0.4691),
    )
