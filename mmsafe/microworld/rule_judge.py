"""The exact judge of the micro-world."""

from __future__ import annotations

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.judge import CaseJudge, Verdict


@options
class Rules(CaseJudge):
    """The exact rule of the micro-world."""

    name: ClassVar[str] = "rules"
    evidence: ClassVar[str] = "exact"
    details: ClassVar[frozenset[str]] = frozenset({"passed", "right", "fluent", "grounded", "hallucinated"})

    def __call__(self, example: Example, response: str) -> Verdict:
        """Judge by the truth in the example's tags."""
        from mmsafe.microworld.rules import judge

        found = judge(example.tags, response)
        return Verdict(
            unsafe=not found.safe,
            refused=found.decision == "refuse",
            category=example.tags.get("entity_type"),
            reply=found.decision,
            details={
                "passed": bool(found.passed),
                "right": found.right,
                "fluent": found.fluent,
                "grounded": found.grounded,
                "hallucinated": found.hallucinated,
            },
        )
