"""From examples to batches of (prompt, image, response) sequences; padded here, packed in `mmsafe.scoring.packing`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmsafe.core.errors import UserError
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example, digest
from mmsafe.models.encoding import Encoder
from mmsafe.objectives.base import Rows, ScoredRow
from mmsafe.scoring.features import BatchImages, FeatureCache, Images
from mmsafe.scoring.sampler import Draw
from mmsafe.scoring.slices import Slice


class Item(NamedTuple):
    """One training item: an example, and which of the objective's groups of rows it is read as."""

    example: Example
    group: int = 0
    weight: float = 1.0
    """Weight of the item in the mean over the micro-batch."""


class Items(Dataset[Item]):
    """Every example once per group of rows that the objective makes of it, but for those `left_out`, by position."""

    def __init__(self, examples: Sequence[Example], groups: int, left_out: Collection[int] = ()) -> None:
        self.examples = examples
        self.groups = groups
        self._places = [place for place in range(len(examples) * groups) if place not in left_out]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, draw: Draw | int) -> Item:
        position, weight = draw if isinstance(draw, Draw) else Draw(draw)
        item = self._places[position]
        return Item(self.examples[item // self.groups], item % self.groups, weight)


@dataclass(kw_only=True)
class Batch:
    """What every layout has in common; row r of item b is sequence `r * batch + b`."""

    rows: tuple[str, ...]
    group: Tensor
    """Group of each item; `[batch]`."""
    weight: Tensor
    """Weight of each item in the mean; `[batch]`."""
    input_ids: Tensor
    """`[lines, time]`; a line is a sequence, or a pack of several."""
    target_mask: Tensor
    """Where the table of token log-probs holds a response token; `[rows * batch, width]`."""
    padding: int
    """Positions in the lines that are no token of a sequence."""
    images: BatchImages | None = None
    reference: Tensor | None = None
    """Reference log-probs of all response tokens, in the order of `target_mask`; where they were computed before."""
    members: Tensor | None = None
    """Which items belong to which of the collator's slices; `[slices, batch]`, where there are any."""

    def __len__(self) -> int:
        return self.group.numel()

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`; Lightning calls it too."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in memory from which a GPU copies while it computes; the loader calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {name: _each(value, change) for name, value in vars(self).items()}
        return replace(self, **changed)

    @property
    def targets(self) -> int:
        """Response tokens."""
        return int(self.target_mask.sum())


@dataclass(kw_only=True)
class PaddedBatch(Batch):
    """Right-padded sequences, one per row and item; the table of log-probs is `[rows * batch, time - 1]`."""

    attention_mask: Tensor
    """`[rows * batch, time]`"""
    image_inputs: Mapping[str, Tensor]
    """The images of all rows as the model's own `forward` takes them."""


@dataclass(frozen=True)
class Collator(ABC):
    """Encodes items and lays them out; images are decoded here, once per distinct image of the batch."""

    encoder: Encoder
    groups: Sequence[Rows]
    max_length: int | None = None
    """Tokens of prompt and response together; responses are clipped to fit."""
    corruption: Corruption | None = None
    """Spoils the image of rows that are shown it `corrupted`."""
    features: FeatureCache | None = None
    """Images whose features it holds are not decoded."""
    slices: tuple[Slice, ...] = ()
    """Parts of the training set, of which a step tells its metrics one by one."""
    blank_image: bool = False
    """Give a batch without any image a blank one that nothing looks at: every rank must run the same graph."""
    max_tokens: int | None = None
    """Tokens of a batch, which then is one line of several prompts with their responses; None: a line for each."""

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Batch:
        """Encode, lay out and pad."""

    def shown(self, item: Item, row: ScoredRow) -> Example:
        """The example as the model is shown it in this row."""
        return view(item.example, row, self.corruption)

    def of_items(self, items: Sequence[Item]) -> dict[str, Any]:
        """What a batch says of its items, however they are laid out."""
        members = [[part.has(item.example) for item in items] for part in self.slices]
        return {
            "group": torch.tensor([item.group for item in items]),
            "weight": torch.tensor([item.weight for item in items]),
            "members": torch.tensor(members) if members else None,
        }

    def clipped(self, prompt: list[int], example: Example, name: str) -> list[int]:
        """Ids of a response, as many as `max_length` leaves room for, and at least one."""
        response = self.encoder.response_ids(example.responses[name], cut=name in example.cut)
        return response if self.max_length is None else response[: max(1, self.max_length - len(prompt))]

    def tokens(self, item: Item, name: str) -> int:
        """Response tokens of a row as a batch holds them; an empty response counts as one."""
        row = self.groups[item.group][name]
        shown = self.shown(item, row)
        return max(1, len(self.clipped(self.encoder.prompt_ids(shown), shown, row.response)))

    def row_key(self, item: Item, row: ScoredRow) -> str:
        """Hash of everything in the data that the log-probs of a row depend on."""
        example = item.example
        response = [example.responses[row.response], row.response in example.cut, self.max_length]
        return digest([self.shown(item, row).prompt_key(), response])


class PaddedCollator(Collator):
    """Lays every row out as a full sequence of its own: slow and obvious."""

    def __call__(self, items: Sequence[Item]) -> PaddedBatch:
        names = tuple(self.groups[0])
        lines: list[list[int]] = []
        responses: list[list[bool]] = []
        images = Images(self.encoder)
        for name in names:
            for item in items:
                row = self.groups[item.group][name]
                shown = self.shown(item, row)
                prompt = self.encoder.prompt_ids(shown)
                response = self.clipped(prompt, shown, row.response)
                lines.append(prompt + response)
                responses.append([False] * len(prompt) + [True] * len(response))
                images.add(shown.images)
        time = max(map(len, lines))
        return PaddedBatch(
            rows=names,
            input_ids=padded(lines, self.encoder.pad_id, time),
            attention_mask=padded([[1] * len(line) for line in lines], 0, time),
            target_mask=padded(responses, False, time)[:, 1:],
            padding=len(lines) * time - sum(map(len, lines)),
            image_inputs=self.encoder.family.forward_inputs(images.rows()),
            **self.of_items(items),
        )


def guarded(collate: Callable[[Sequence[Item]], Batch], items: Sequence[Item]) -> Batch | UserError:
    """The batch, or the error that its reader has to raise: raised in a worker, it would be wrapped in a traceback."""
    try:
        return collate(items)
    except UserError as error:
        return error


def opened(batch: Batch | UserError) -> Batch:
    """What `guarded` gave; raises its error."""
    if isinstance(batch, UserError):
        raise batch
    return batch


def view(example: Example, row: ScoredRow, corruption: Corruption | None = None) -> Example:
    """The example as `row` shows it to the model."""
    if row.image == "real":
        return example
    if row.image == "none":
        return example.blinded()
    if row.image == "corrupted":
        if corruption is None:
            raise ValueError("a row wants the corrupted image, but no corruption is given")
        return corruption.corrupted(example)
    raise ValueError(f"unknown image view '{row.image}'")


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field of a batch with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, BatchImages):
        return value.each(change)
    if isinstance(value, Mapping):
        return {name: change(tensor) for name, tensor in value.items()}
    return value


def padded(rows: list[list[Any]], fill: int, width: int) -> Tensor:
    """The rows as a table, filled up on the right."""
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
