"""RLAIF-V, pairs ranked by open models for trustworthiness (arXiv 2405.17220): parquet files with their images."""

from mmsafe.core.options import options
from mmsafe.data.row_source import RowSource


@options
class RLAIFV(RowSource):
    """Columns `image`, `question`, `chosen`, `rejected`, and `origin_dataset`, by which metrics are told.

    Rows with neither response are prompts.
    """

    get = "RLAIF-V (https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset) and set data.path to its folder"
    tag_columns = ("origin_dataset",)
    marks = tag_columns
