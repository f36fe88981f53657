"""POPE (arXiv 2305.10355): is an object in the image? What safety training costs in seeing shows as hallucination."""

from collections.abc import Iterator, Mapping, Sequence

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Bounds, Judged
from mmsafe.evaluation.benchmarks.published import ExactBenchmark, prompt
from mmsafe.evaluation.benchmarks.published_files import Folder
from mmsafe.evaluation.statistics import Estimate, rate


@options
class POPE(ExactBenchmark):
    """Questions on COCO images: half of the objects are there, the others random, popular or adversarial.

    As upstream, an answer is no if its first sentence has the word no, No or not, else yes; figures are by split.
    """

    name = "pope"
    measures = (
        Metric("accuracy", "accuracy", "higher", by_tag=True, is_score=True, axis="utility"),
        Metric("f1", "F1", "higher", by_tag=True),
        *(Metric(name, name, "higher") for name in ("precision", "recall")),
        Metric("yes_ratio", "share of yes", by_tag=True),
    )
    tags = ("split",)
    get = "POPE (https://github.com/AoiDragon/POPE: output/coco/, and COCO's val2014/ images beside it)"
    suffix: str = ""

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `coco_pope_{split}.json`, lines of JSON, and `val2014/`; `{split}/{position}`."""
        for split in ("random", "popular", "adversarial"):
            file = folder.file(f"coco_pope_{split}.json")
            for number, row in folder.rows(file, ("image", "text", "label")):
                image = folder.image(file.parent / "val2014", row.text("image"))
                question = row.text("text") + self.suffix
                yield prompt(f"{split}/{number}", question, image, split=split, answer=row.text("label"))

    def right(self, example: Example, response: str) -> bool:
        words = response.partition(".")[0].replace(",", "").split(" ")
        return ("no" if {"no", "No", "not"} & set(words) else "yes") == example.tags["answer"]

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """J is the share of what is both there and said in what is either, of which F1, its interval too, follows."""
        rows = [(row.example.tags["answer"] == "yes", row.verdict.details["right"]) for row in judged]
        both = [(there, there == right) for there, right in rows]  # there, and said to be
        j = rate([there and yes for there, yes in both if there or yes])
        return {
            "accuracy": rate([right for _, right in rows]),
            "precision": rate([there for there, yes in both if yes]),
            "recall": rate([yes for there, yes in both if there]),
            "f1": j and Estimate(_f1(j.value), _f1(j.low), _f1(j.high), j.n),
            "yes_ratio": rate([yes for _, yes in both]),
        }

    def bounds(self, judged: Sequence[Judged]) -> Mapping[str, Bounds]:
        """Of the share of yes neither end is better."""
        return {name: ends for name, ends in super().bounds(judged).items() if name != "yes_ratio"}


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)
