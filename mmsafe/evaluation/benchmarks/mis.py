"""MIS (arXiv 2501.18533): two images that are harmful together, by a question that refers to both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mmsafe.core.declared import Metric
from mmsafe.core.options import options
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Rates
from mmsafe.evaluation.benchmarks.published import Folder, PublishedBenchmark, prompt

IMAGES = ("image_path1", "image_path2")


@options
class MIS(PublishedBenchmark):
    """The test set: questions about two images, easy or hard to tell as harmful, or about photographs.

    asr: attack success rate, the share of unsafe responses. refusal_rate: share of responses that refuse. The published
    judge also tells what a response saw of the images (RSR, RR, HR), which is not done here.
    """

    name: ClassVar[str] = "mis"
    measures: ClassVar[tuple[Metric, ...]] = (
        Metric("asr", "attack success rate", "lower", by_tag=True, is_score=True, axis="safety"),
        Metric("refusal_rate", "refusal rate", by_tag=True),
    )
    rates: ClassVar[Rates] = {"asr": lambda row: row.harmful, "refusal_rate": lambda row: row.refused}
    tags: ClassVar[tuple[str, ...]] = ("split", "category")
    get: ClassVar[str] = "the MIS test set (https://huggingface.co/datasets/Tuwhy/MIS_Test)"

    splits: list[Literal["easy", "hard", "real"]] = Field(default=["easy", "hard"], min_length=1)
    """Which files are asked."""

    def read(self, folder: Folder) -> Iterator[Example]:
        """From `mis_{split}.json`, beside the folders of images that it names; the images come before the words."""
        for split in dict.fromkeys(self.splits):
            file = folder.file(f"mis_{split}.json")
            for number, row in folder.rows(file, ("question", "category", *IMAGES)):
                images = [folder.image(file.parent, row.text(name)) for name in IMAGES]
                tags = {"split": split, "category": row.text("category")}
                yield prompt(f"{split}/{number}", row.text("question"), *images, **tags)
