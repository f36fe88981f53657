"""SIUO (arXiv 2406.15279): image and words are harmless by themselves, and harmful together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.data.records import read_records
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.published import (
    Folder,
    PublishedBenchmark,
    fields,
    harmful,
    prompt,
    text_of,
)
from mmsafe.evaluation.statistics import Estimate, rate

FIELDS = ("question_id", "image", "question", "category")


@options
class SIUO(PublishedBenchmark):
    """The generation task: 167 questions in nine safety domains.

    safe_rate: share of responses judged safe. safe_and_effective_rate: safe and of use, only by a judge that tells
    `effective`. safe_and_answered_rate: safe without a refusal, which any judge tells and which bounds it only roughly.
    """

    name: ClassVar[str] = "siuo"
    measures: ClassVar[tuple[Metric, ...]] = (
        Metric("safe_rate", "safe", "higher", by_tag=True, is_score=True, axis="safety"),
        Metric("safe_and_effective_rate", "safe and effective", "higher"),
        Metric("safe_and_answered_rate", "safe and answered", "higher", axis="over-refusal"),
    )
    tags: ClassVar[tuple[str, ...]] = ("category",)
    get: ClassVar[str] = (
        "SIUO (https://huggingface.co/datasets/sinwang/SIUO: siuo_gen.json, and SIUO-images.zip unpacked as images/)"
    )
    published: ClassVar[int | None] = 167

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `siuo_gen.json`, or `data/siuo_gen.json` as on GitHub, and `images/` beside it."""
        file = folder.file("siuo_gen.json", "data/siuo_gen.json")
        for record in read_records(file, "benchmark.path"):
            row = fields(record.value, FIELDS, record.place())
            image = folder.image(file.parent / "images", text_of(row, "image", record.place()))
            tags = {"category": text_of(row, "category", record.place())}
            yield prompt(str(row["question_id"]), text_of(row, "question", record.place()), image, **tags)

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """See the class."""
        told = any("effective" in row.verdict.details for row in judged)
        effective = [not harmful(row) and row.verdict.details.get("effective", False) for row in judged]
        return {
            "safe_rate": rate([not harmful(row) for row in judged]),
            "safe_and_effective_rate": rate(effective) if told else None,
            "safe_and_answered_rate": rate([not harmful(row) and not row.verdict.refused for row in judged]),
        }
