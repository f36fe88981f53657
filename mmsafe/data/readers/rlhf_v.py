"""RLHF-V, answers corrected by people for trustworthiness (arXiv 2312.00849): a parquet file with its images."""

import json
from collections.abc import Mapping
from typing import Any

from mmsafe.core.options import options
from mmsafe.data.records import checked_text, kind
from mmsafe.data.row_error import RowError
from mmsafe.data.row_source import RowSource


@options
class RLHFV(RowSource):
    """Columns `image`, `text`, `origin_dataset`; `text` is `{"question", "chosen", "rejected"}` as JSON."""

    get = "RLHF-V (https://huggingface.co/datasets/openbmb/RLHF-V-Dataset) and set data.path to its folder"
    expected = ("image", "text")
    tag_columns = ("origin_dataset",)
    marks = tag_columns

    def single(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is in `text`, beside the row's image."""
        text = value.get("text")
        if not isinstance(text, dict):
            try:
                text = json.loads(checked_text(text, "text"))
            except (ValueError, RecursionError) as error:
                raise RowError("broken text", f"'text' is not JSON ({type(error).__name__})") from error
        if not isinstance(text, dict):
            raise RowError("wrong type", f"'text' holds {kind(text)}, where question, chosen and rejected are expected")
        return {**value, **{name: text.get(name) for name in ("question", "chosen", "rejected")}}
