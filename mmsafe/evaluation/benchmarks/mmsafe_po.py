"""The test of MMSafe-PO (arXiv 2503.14189): safety rate and pairwise accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mmsafe.data.example import Example
from mmsafe.data.source import DataSource
from mmsafe.evaluation.benchmark import Benchmark, Judged, Part
from mmsafe.evaluation.statistics import Estimate, rate
from mmsafe.options import options


@options
class MMSafePOTest(Benchmark):
    """Every instruction of the set is answered; a response that the judge cannot tell counts as unsafe.

    safety_rate: share of responses judged safe. refusal_rate: share of responses that refuse.
    """

    name: ClassVar[str] = "mmsafe_po"
    tags: ClassVar[tuple[str, ...]] = ("entity_type", "turns")

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """The instructions of the set itself."""
        return (data.holdout() if part == "holdout" else data.test()).examples

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """See the class."""
        verdicts = [row.verdict for row in judged]
        return {
            "safety_rate": rate([not (verdict.unsafe or verdict.unknown) for verdict in verdicts]),
            "refusal_rate": rate([verdict.refused for verdict in verdicts]),
        }
