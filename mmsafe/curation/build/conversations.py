"""Stage 1: text-only preference pairs, as conversations that end with the user."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, InputPath, options
from mmsafe.curation.build.stage import BuildStage, Outcome, Row, Site
from mmsafe.data.conversation import PLACEHOLDER, SPEAKER, format_conversation
from mmsafe.data.example import digest
from mmsafe.data.readers.hh_text import read_pair
from mmsafe.data.records import Record, read_records
from mmsafe.data.row_error import RowError


@options
class HHConversations(BuildStage):
    """Anthropic's HH-RLHF: rows with `chosen` and `rejected`, transcripts that differ in their last turn."""

    whole: ClassVar[bool] = True

    path: InputPath | None = None
    """Required: a .jsonl or .jsonl.gz file, such as harmless-base/train.jsonl.gz, or a folder with `{split}` files."""
    split: str | None = None
    """Which files of a folder are read."""
    type: str = "harmless"
    """Of the pairs; it becomes the field `type` of MMSafe-PO."""
    limit: Count | None = None
    """Read so many rows only."""

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError("conversations.path is not set: get HH-RLHF and name one of its .jsonl.gz files")

    def identity(self, site: Site) -> dict[str, Any]:
        """The rows count, not where they lie."""
        rows_hash = digest([record.value for record in self._records])
        return super().identity(site) | {"path": None, "split": None, "rows": rows_hash}

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        yield [(str(number), self._outcome(record)) for number, record in enumerate(self._records, start=1)]

    def plan(self, count: int, rows: object) -> str:
        return f"nothing is asked; {len(self._records)} pairs are read"

    @cached_property
    def _records(self) -> list[Record]:
        assert self.path is not None  # __post_init__ has refused that
        records = read_records(self.path, "conversations.path", self.split, split_option="conversations.split")
        return list(islice(records, self.limit))

    def _outcome(self, record: Record) -> Outcome:
        try:
            return Outcome(self._row(record))
        except RowError as error:
            return Outcome(None, error.reason)

    def _row(self, record: Record) -> Row:
        if record.problem is not None or not isinstance(record.value, dict):
            raise record.problem or RowError("not an object", "is not an object")
        turns, chosen, rejected = read_pair(record.value)
        text_prompt = format_conversation(turns)
        if PLACEHOLDER in text_prompt + chosen + rejected:
            raise RowError("image placeholder in text", f"holds {PLACEHOLDER}")
        if any(SPEAKER.search(turn.text) for turn in turns):
            raise RowError("speaker label in text", "a turn holds 'USER:' or 'ASSISTANT:'")
        return {"text_prompt": text_prompt, "chosen": chosen, "rejected": rejected, "type": self.type}
