"""From examples to padded batches of (prompt, image, response) sequences."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmsafe.data.example import Example, ImageSource
from mmsafe.objectives.base import Row, Rows

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder


class Item(NamedTuple):
    """One training item: an example, and which of the objective's groups of rows it is read as."""

    example: Example
    group: int = 0


@dataclass
class Batch:
    """Right-padded sequences of `rows × batch`; row-major, so row r of item b is sequence `r * batch + b`."""

    rows: tuple[str, ...]
    group: Tensor
    """Group of each item; `[batch]`."""
    input_ids: Tensor
    """`[rows * batch, time]`"""
    attention_mask: Tensor
    """`[rows * batch, time]`"""
    response_mask: Tensor
    """True on response tokens; `[rows * batch, time]`."""
    pixel_values: Tensor | None
    """Distinct images; `[images, 3, height, width]`."""
    image_index: Tensor
    """Image of each sequence that has one, in order; `[sequences with an image]`."""

    def __len__(self) -> int:
        return self.group.numel()

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`; Lightning calls it too."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask.sum())


class PaddedCollator:
    """Lays every row out as a full sequence of its own: slow and obvious."""

    def __init__(self, encoder: Encoder, groups: Sequence[Rows], max_length: int | None = None) -> None:
        self.encoder = encoder
        self.groups = groups
        self.max_length = max_length

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Encode and pad; images are decoded here, once per distinct image of the batch."""
        names = tuple(self.groups[0])
        prompts: list[list[int]] = []
        responses: list[list[int]] = []
        images = _Images(self.encoder)
        for name in names:
            for item in items:
                row = self.groups[item.group][name]
                shown = view(item.example, row)
                prompt = self.encoder.prompt_ids(shown)
                prompts.append(prompt)
                responses.append(self._clipped(prompt, shown, row.response))
                images.add(shown.image)
        ids, attention, mask = pad(prompts, responses, self.encoder.pad_id)
        group = torch.tensor([item.group for item in items])
        return Batch(names, group, ids, attention, mask, images.pixels(), torch.tensor(images.index, dtype=torch.long))

    def _clipped(self, prompt: list[int], example: Example, name: str) -> list[int]:
        response = self.encoder.response_ids(example.responses[name], cut=name in example.cut)
        return response if self.max_length is None else response[: max(1, self.max_length - len(prompt))]


def view(example: Example, row: Row) -> Example:
    """The example as `row` shows it to the model."""
    if row.image == "real":
        return example
    if row.image == "none":
        return example.blinded()
    raise ValueError(f"unknown image view '{row.image}'")


def pad(prompts: list[list[int]], responses: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-pad prompt + response; returns ids, attention mask and response mask, `[sequences, time]` each."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    ids = torch.full((len(prompts), max(lengths)), pad_id)
    attention = torch.zeros_like(ids)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, response, length) in enumerate(zip(prompts, responses, lengths, strict=True)):
        ids[row, :length] = torch.tensor(prompt + response)
        attention[row, :length] = 1
        mask[row, len(prompt) : length] = True
    return ids, attention, mask


class _Images:
    """Collects the distinct images of a batch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._position: dict[ImageSource, int] = {}
        self.index: list[int] = []

    def add(self, image: ImageSource | None) -> None:
        if image is not None:
            self.index.append(self._position.setdefault(image, len(self._position)))

    def pixels(self) -> Tensor | None:
        return torch.stack([self._encoder.pixels(image) for image in self._position]) if self._position else None
