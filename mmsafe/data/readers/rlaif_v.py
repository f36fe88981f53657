"""RLAIF-V, pairs ranked by open models for trustworthiness (arXiv 2405.17220): parquet files with their images."""

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.data.row_source import RowSource


@options
class RLAIFV(RowSource):
    """Columns `image`, `question`, `chosen`, `rejected`, and `origin_dataset`, by which metrics are told.

    Rows with neither response are prompts.
    """

    get: ClassVar[str] = (
        "RLAIF-V (https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset) and set data.path to its folder"
    )
    tag_columns: ClassVar[tuple[str, ...]] = ("origin_dataset",)
    marks: ClassVar[tuple[str, ...]] = tag_columns
