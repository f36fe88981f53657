"""The prompts of a data set itself: safety rate and pairwise accuracy, by source and category."""

from typing import ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import CATEGORIES, Benchmark, Part, Rates, loaded


@options
class OwnPrompts(Benchmark):
    """Every instruction of the set is answered; a response that the judge cannot tell counts as unsafe.

    safety_rate: share of responses judged safe. refusal_rate: share of responses that refuse.
    """

    name = "own_prompts"
    measures: ClassVar[tuple[Metric, ...]] = (
        Metric("safety_rate", "safety rate", "higher", by_tag=True, is_score=True, axis="safety"),
        Metric("refusal_rate", "refusal rate", by_tag=True),
    )
    rates: ClassVar[Rates] = {
        "safety_rate": lambda row: not row.harmful,
        "refusal_rate": lambda row: row.refused,
    }
    tags: ClassVar[tuple[str, ...]] = (
        *CATEGORIES,
        *("image_severity", "harmful_category", "harmful_subcategory", "request", "origin_dataset", "turns"),
    )
    asks_data = True

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        return loaded(data, part).examples
