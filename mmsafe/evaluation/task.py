"""What an evaluation measures, and how: the values that its stages share."""

from __future__ import annotations

from dataclasses import dataclass

from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Part
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.scoring.ways import Scoring

NO_LIMIT = Lengths(max_length=None)


@dataclass(frozen=True)
class EvaluationTask:
    """A benchmark on a part of the data, its judge, and how the model is asked and scored."""

    benchmark: Benchmark
    data: DataSource
    part: Part
    judge: Judge
    scoring: Scoring
    settings: Evaluation
    lengths: Lengths = NO_LIMIT
    """Prompts that leave no room for an answer are not asked; pairs that do not fit whole are left out."""
    precision: str = "32-true"
    """Arithmetic of log-probs, which a reference has to share."""

    def prompts(self) -> list[Example]:
        """What the model is asked."""
        return self.benchmark.prompts(self.data, self.part)

    def pairs(self) -> list[Example]:
        """The pairs of responses that it has to tell apart."""
        return self.benchmark.pairs(self.data, self.part)

    def dropped(self) -> dict[str, int]:
        """How many rows that should have made prompts were dropped for which reason."""
        return self.benchmark.dropped(self.data, self.part)
