"""Base of the benchmarks that ask every instruction of the data in several views."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import CATEGORIES, Benchmark, Judged


@options
class Probe(Benchmark):
    """Asks every instruction of the data in several views; `{id}/{view}` is the id of a prompt."""

    asks_data = True
    has_pairs = False
    tags: ClassVar[tuple[str, ...]] = ("entity_type", "cue", "turns", *CATEGORIES)
    shared_tag = "pair"
    view_tag = "view"
    """The tag that names the view; `pair` has the id of the instruction."""

    def view(self, prompt: Example, name: str) -> Example:
        """An instruction of the data, as it is asked in this view."""
        tags = {**prompt.tags, "pair": prompt.id, self.view_tag: name}
        return replace(prompt, id=f"{prompt.id}/{name}", responses={}, tags=tags)

    def by_view(self, judged: Sequence[Judged]) -> list[dict[str, Judged]]:
        """The views of each instruction by their names."""
        views: dict[str, dict[str, Judged]] = defaultdict(dict)
        for row in judged:
            views[row.example.tags["pair"]][row.example.tags[self.view_tag]] = row
        return list(views.values())
