"""RLHF-V, answers corrected by people for trustworthiness (arXiv 2312.00849): a parquet file with its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from mmsafe.core.options import options
from mmsafe.data.readers.rlaif_v import RLAIFV
from mmsafe.data.records import checked_text, kind
from mmsafe.data.row_error import RowError


@options
class RLHFV(RLAIFV):
    """Columns `image`, `text`, `origin_dataset`; `text` is `{"question", "chosen", "rejected"}` as JSON."""

    get: ClassVar[str] = (
        "RLHF-V (https://huggingface.co/datasets/openbmb/RLHF-V-Dataset) and set data.path to its folder"
    )
    expected: ClassVar[tuple[str, ...]] = ("image", "text")
    optional: ClassVar[tuple[tuple[str, ...], ...]] = ()
    example: ClassVar[Mapping[str, Any]] = {
        "text": '{"question": "What is it?", "chosen": "A tree.", "rejected": "A house."}',
        "image": "a.png",
        "origin_dataset": "COCO",
        "idx": 7,
    }

    def pair(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """In `text`."""
        text = value.get("text")
        if not isinstance(text, dict):
            try:
                text = json.loads(checked_text(text, "text"))
            except (ValueError, RecursionError) as error:
                raise RowError("broken text", f"'text' is not JSON ({type(error).__name__})") from error
        if not isinstance(text, dict):
            raise RowError("wrong type", f"'text' holds {kind(text)}, where question, chosen and rejected are expected")
        return text
