"""BeaverTails-V, pairs ranked by safety and by helpfulness (arXiv 2503.17682): parquet files with their images."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mmsafe.core.options import options
from mmsafe.data.conversation import preference, question, tags_of, unanswered
from mmsafe.data.example import Example
from mmsafe.data.records import Record, numbered
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource

RESPONSES = ("response_1", "response_2")
COLUMN = {"safer": "safer_response_id", "more_helpful": "more_helpful_response_id"}


@options
class BeaverTailsV(RowSource):
    """Columns `image`, `question`, `category`, `response_1`, `response_2` and the ids of the better ones.

    Rows with neither response are prompts; `category` may be missing. The column names were taken from public code that
    reads the set. That the ids are 1 and 2, as in the names of the responses, could not be verified: any other value is
    a bad row.
    """

    get = "BeaverTails-V (https://huggingface.co/datasets/PKU-Alignment/BeaverTails-V) and set data.path to its folder"
    expected = ("image", "question", *RESPONSES, *COLUMN.values())
    optional = (RESPONSES, (*RESPONSES, *COLUMN.values()))
    preferred: Literal["safer", "more_helpful"] = "safer"

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        value = record.value
        responses = {} if unanswered(*map(value.get, RESPONSES)) else self._pair(value)
        images, groups = find.all(value.get("image"))
        turns = question(value.get("question"), "question")
        tags = tags_of(value, "category")
        if isinstance(severity := value.get("image_severity"), int | float | str):  # how harmful the image is
            tags |= tags_of({"image_severity": str(severity)[:40]}, "image_severity")
        yield ReadRow(Example(numbered(record), turns, images, responses, tags), groups)

    def _pair(self, value: Mapping[str, Any]) -> dict[str, str]:
        column = COLUMN[self.preferred]
        better = value.get(column)
        if isinstance(better, bool) or better not in (1, 2, "1", "2"):
            raise RowError("no preference", f"'{column}' is neither 1 nor 2")
        chosen, rejected = f"response_{int(better)}", f"response_{3 - int(better)}"
        return preference(value.get(chosen), value.get(rejected), (chosen, rejected))
