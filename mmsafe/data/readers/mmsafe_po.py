"""MMSafe-PO, multimodal preference pairs made from HH-RLHF (arXiv 2503.14189): a JSON file and a folder of images."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.conversation import (
    PLACEHOLDER,
    parse_conversation,
    parse_question,
    preference,
    response,
    tags_of,
    turns_tag,
    unanswered,
)
from mmsafe.data.example import Example, Turn
from mmsafe.data.records import Record, read_records, row_id, text_field
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow, RowSource
from mmsafe.objectives.base import GENERATED

TAGS = ("type", "entity_type", "keyword")


@options
class MMSafePO(RowSource):
    """Reader of MMSafe-PO and of other sets with its fields: `question`, `image`, `chosen`, `rejected`.

    `path` may also be a keyed file, one object `{"keyword": "path.json"}`. Rows with neither response are prompts.
    """

    get = "MMSafe-PO and set data.path to its JSON file, data.image_dir to its images"
    transcripts = ("question",)
    keywords: list[str] | None = None

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        value = record.value
        answered = not unanswered(value.get("chosen"), value.get("rejected"))
        generated = {field: response(value[field], field) for field in GENERATED if value.get(field) is not None}
        tags = tags_of({**value, "keyword": record.keyword}, *TAGS)
        responses = preference(text_field(value, "chosen"), text_field(value, "rejected")) if answered else {}
        if "image" not in value:
            raise RowError("missing field", "has no field 'image'")
        images, groups = find.all(value["image"])
        turns = parse_question(text_field(value, "question"), len(images))
        example = Example(row_id(record), turns, images, responses | generated, tags | turns_tag(turns))
        yield ReadRow(example, groups, value.get("text_prompt"))

    def text_only(self, example: Example) -> Example | None:
        """The conversation of the row's `text_prompt`, from which the multimodal one was made."""
        row = self._by_prompt[example.id, example.turns]
        if row.text_prompt is None:
            return None
        try:
            turns = parse_conversation(text_field({"text_prompt": row.text_prompt}, "text_prompt"), "text_prompt")
        except RowError as error:
            raise UserError(f"{row.place}: {error}") from error
        if any(turn.images for turn in turns):
            raise UserError(f"{row.place}: 'text_prompt' holds {PLACEHOLDER}, where words alone are expected")
        return replace(example, turns=turns, images=(), responses={})

    def records(self, *, streamed: bool = False) -> Iterator[Record]:
        """Those of the files that `keywords` names."""
        return read_records(self.root, "data.path", self.split, self.keywords, streamed=streamed)

    @cached_property
    def _by_prompt(self) -> dict[tuple[str, tuple[Turn, ...]], ReadRow]:
        rows = [*self._rows[0], *(self._eval_rows[0] if self.evaluates_others else [])]
        return {(row.example.id, row.example.turns): row for row in rows}
