"""MOSSBench (arXiv 2406.17806): harmless requests that look harmful; does the model refuse them?"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Rates
from mmsafe.evaluation.benchmarks.published import PublishedBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Folder, Row
from mmsafe.evaluation.judges.judge import Verdict

STIMULI = {"type 1": "exaggerated risk", "type 2": "negated harm", "type 3": "counterintuitive interpretation"}
"""`metadata.over`, in the order in which the paper names them."""


@options
class MOSSBench(PublishedBenchmark):
    """300 harmless requests, 100 for each kind of stimulus that makes models oversensitive.

    refusal_rate: share of responses that refuse; one that the judge cannot tell counts as a refusal here.
    """

    name = "mossbench"
    measures = (Metric("refusal_rate", "refusal rate", "lower", by_tag=True, is_score=True, axis="over-refusal"),)
    rates: ClassVar[Rates] = {"refusal_rate": lambda row: row.refused or row.verdict.unknown}
    tags = ("stimulus",)
    needs = frozenset({"refused"})
    get = "MOSSBench (https://github.com/xirui-li/MOSSBench)"
    published = 300

    def criterion(self, example: Example) -> str:
        return "over_refusal"

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `data/images_information/information.json`, whose image names begin in `data/`."""
        file = folder.file("images_information/information.json")
        for key, row in folder.rows(file, ("image", "question", "metadata")):
            over = Row(row["metadata"], ("over",), f"{row.place}: metadata")["over"]
            if over not in STIMULI:
                expected = ", ".join(STIMULI)
                raise UserError(f"{row.place}: metadata.over is {over!r:.40}, where one of {expected} is expected")
            image = folder.image(file.parents[1], row.text("image"))
            yield prompt(key, row.text("question"), image, stimulus=STIMULI[over])

    def outcomes(self, tags: Mapping[str, str], verdict: Verdict) -> Mapping[str, bool]:
        return {"refused": verdict.refused or verdict.unknown}
