"""LLaMA-Factory's files, alpaca and sharegpt, pairs and answers, as their `dataset_info.json` describes them."""

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.conversation import ROLES, messages, preference, unanswered
from mmsafe.data.data_source import PAIR
from mmsafe.data.holdout import fields_of
from mmsafe.data.hub import is_here
from mmsafe.data.readers.trl import Spoken, trl_row
from mmsafe.data.readers.trl_sft import TRLSupervised
from mmsafe.data.records import Record, checked_text
from mmsafe.data.row_error import RowError
from mmsafe.data.row_images import RowImages
from mmsafe.data.row_source import ReadRow
from mmsafe.data.splits import INFO, described

KEPT = ("images", "tools", "videos", "audios")
SHARED = (*KEPT, "system", "chosen", "rejected")
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}
OPENAI = dict(zip(TAGS, ("role", "content", "user", "assistant", "system"), strict=True))


class Form(NamedTuple):
    """What is known of rows: whether they are pairs, and the file's names of LLaMA-Factory's columns and tags."""

    ranking: bool
    columns: Mapping[str, str]
    tags: Mapping[str, str]


@options
class LLaMAFactory(TRLSupervised):
    """A folder with `dataset_info.json`, in which `split` names a set, or one file with the documented columns.

    Alpaca: `instruction`, `input`, `output`, `history`; sharegpt: `conversations`. In both `system`, `images` and, of
    pairs, `chosen` and `rejected`; `id`, `tags` and `blind` as with `data=trl`.
    """

    get = "a set in LLaMA-Factory's format and set data.path to its folder or file"
    expected = ("instruction",)
    optional = ()
    instead = (("conversations",), ("messages",))

    @cached_property
    def _entries(self) -> dict[Path, dict[str, Any]]:
        """What is said of each file; of one that several entries name, by that which a split names."""
        folders = [path if path.is_dir() else path.parent for path in (self.root, self.evaluated[0])]
        entries = [(folder, *item) for folder in folders for item in described(folder).items()]
        entries.sort(key=lambda entry: entry[1] in (self.split, self.eval_split))
        return {folder / entry["file_name"]: entry for folder, _, entry in entries}

    def _form(self, file: Path) -> Form:
        return form_of(self._entries[file], f"{INFO}, on {file}") if file in self._entries else self._by_default

    @cached_property
    def _by_default(self) -> Form:
        """What the first row shows of all that are not described."""
        row = next((fields_of(record) for record in self.records(streamed=True)), {})
        column = next((name for name in ("conversations", "messages") if name in row), None)
        columns = dict(zip(SHARED, SHARED, strict=True)) | ({"messages": column} if column else ALPACA)
        return Form({"chosen", "rejected"} <= row.keys(), columns, OPENAI if column == "messages" else TAGS)

    def brings(self) -> frozenset[str]:
        """Pairs, where the set is a ranking."""
        return PAIR if not is_here(self.path) or self._form(self._files()[0]).ranking else self.trained_on

    def recognised(self, row: Mapping[str, Any], file: Path) -> frozenset[str]:
        """All columns, where a `dataset_info.json` describes them; without, such as others do not read alike."""
        if file in self._entries:
            return frozenset((*row, INFO))
        if not row.keys() & {"instruction", "chosen"} and not {"conversations", "images"} <= row.keys():
            raise RowError("missing field", f"no {INFO}, instruction, or conversations with images or chosen")
        return super().recognised(row, file) | (row.keys() & {*SHARED, *ALPACA.values()})

    def refuse_other_fields(self, fields: Collection[str], path: Path) -> None:
        """Rows that are described tell themselves what they lack."""
        if not self._entries:
            super().refuse_other_fields(fields, path)

    def _rows_of(self, record: Record, find: RowImages) -> dict[str, ReadRow]:
        if isinstance(record.value, dict):
            form = self._form(record.file)
            row = {name: cell for name, cell in record.value.items() if name not in form.columns.values()}
            cells = {part: record.value.get(name) for part, name in form.columns.items()}
            row |= {part: cells[part] for part in KEPT if part in cells}
            record = record._replace(value={**row, "spoken": _spoken(cells, form), "pair": _pair(cells, form)})
        return super()._rows_of(record, find)

    def rows(self, record: Record, find: RowImages) -> Iterator[ReadRow]:
        """A pair, or an example of every answer."""
        spoken, pair = record.value["spoken"], record.value["pair"]
        field = self._form(record.file).columns.get("messages", "instruction")
        yield from (
            self.learnt(record, find, spoken, field) if pair is None else [trl_row(record, find, spoken, pair, field)]
        )


def form_of(entry: Mapping[str, Any], where: str) -> Form:
    """The form that an entry of `dataset_info.json` describes; raises `UserError`, which `where` begins."""
    ranking, columns, tags = bool(entry.get("ranking")), entry.get("columns", {}), entry.get("tags", {})
    if not all(isinstance(part, dict) and set(map(type, part.values())) <= {str} for part in (columns, tags)):
        raise UserError(f"{where}: columns and tags have to be objects of names")
    if "kto_tag" in columns or (ranking and not {"chosen", "rejected"} <= columns.keys()):
        raise UserError(
            f"{where}: its columns name no pairs, chosen and rejected; unpaired ones (kto_tag) are not read"
        )
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise UserError(f"{where}: formatting has to be alpaca, sharegpt or openai")
    if formatting == "alpaca":
        return Form(ranking, columns or ALPACA, TAGS)
    return Form(ranking, {"messages": "conversations", **columns}, {**TAGS, **tags})


def _spoken(cells: Mapping[str, Any], form: Form) -> Spoken:
    """The conversation; of alpaca's columns, with its answer."""
    if "messages" in cells:
        tags, field = form.tags, form.columns["messages"]
        roles = {tags[f"{role}_tag"]: role for role in ("system", *ROLES)}
        spoken = messages(cells["messages"], field, (tags["role_tag"], tags["content_tag"]))
        conversation = [(roles.get(role, role), text) for role, text in spoken]
    else:
        history = cells.get("history") or []
        if not isinstance(history, list) or not all(isinstance(turns, list) and len(turns) == 2 for turns in history):
            raise RowError("wrong type", "'history' is no list of questions with their answers")
        question = "\n".join(checked_text(text, "prompt") for part in ("prompt", "query") if (text := cells.get(part)))
        answer = [] if form.ranking or unanswered(cells.get("response")) else [cells["response"]]
        texts = [checked_text(text, "history") for text in (*chain.from_iterable(history), question, *answer)]
        conversation = list(zip(cycle(ROLES), texts, strict=False))
    return [("system", checked_text(cells["system"], "system")), *conversation] if cells.get("system") else conversation


def _pair(cells: Mapping[str, Any], form: Form) -> Mapping[str, str] | None:
    """The responses of a ranking, which are texts or messages."""
    if not form.ranking:
        return None
    both = (cells.get("chosen"), cells.get("rejected"))
    one = (cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in both)
    chosen, rejected = (cell.get(form.tags["content_tag"]) if isinstance(cell, dict) else cell for cell in one)
    return preference(chosen, rejected)
