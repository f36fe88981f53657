"""Batches in which every prompt stands once, with all its responses behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.models.family import family_of
from mmsafe.scoring.collate import Batch, Collator, Item, padded
from mmsafe.scoring.features import BlankImage, Images

MULTIPLE = 8
"""Lines are padded to a multiple of this: attention kernels want aligned masks."""
PROMPT, PAD = 0, -1
BLANK = 64
"""Pixels of a side of an image that nothing looks at."""


@dataclass(kw_only=True)
class PackedBatch(Batch):
    """One line per (item, view of the image): `[prompt | response | response | … | padding]`.

    Positions go on from the prompt's end in every response. The table of log-probs is `[rows * batch, longest]`.
    """

    position_ids: Tensor
    """`[lines, time]`, or `[axes, lines, time]` in families with several axes."""
    segment: Tensor
    """0 in the prompt, 1, 2, … by row in the responses, -1 in the padding; `[lines, time]`."""
    source: Tensor
    """Where each response token is predicted, in the flattened `[lines * time]`; `[targets]`, in table order."""
    target: Tensor
    """The response tokens; `[targets]`."""

    def attention_mask(self) -> Tensor:
        """True where a token may look: at the prompt and at its own response, never ahead; `[lines, 1, time, time]`.

        Padding sees the prompt, so that no row is empty; nothing sees padding but padding.
        """
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        time = self.segment.shape[1]
        past = torch.ones(time, time, dtype=torch.bool, device=query.device).tril()
        return (((key == PROMPT) | (key == query)) & past)[:, None]

    def mask_for(self, model: Any, attention: str) -> Any:
        """What the language model takes: bools for `sdpa`, numbers for `eager`, blocks for `flex_attention`."""
        family = family_of(model.config.model_type)
        if attention == "flex_attention":
            if family.own_masks(model):
                raise UserError("model.attention=flex_attention: not for masks of this model; choose sdpa")
            return self._blocks()
        allowed = self.attention_mask()
        masks = family.masks(model, allowed, allowed.sum(-1, keepdim=True), self.input_ids)
        if attention == "eager":
            masks = {kind: _additive(mask, model.dtype) for kind, mask in masks.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _blocks(self) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        segment = self.segment

        def allowed(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            shared = segment[line, key] == PROMPT
            return (query >= key) & (shared | (segment[line, key] == segment[line, query]))

        lines, time = segment.shape
        return create_block_mask(allowed, lines, None, time, time, device=segment.device)


class _Line:
    """One line while it is put together."""

    def __init__(self, prompt: list[int], positions: list[list[int]]) -> None:
        self.prompt = prompt
        self.ids = list(prompt)
        self.positions = [list(axis) for axis in positions]
        self.start = 1 + max(max(axis, default=-1) for axis in positions)
        self.segment = [PROMPT] * len(prompt)

    def blank(self, ids: list[int]) -> None:
        """Append the placeholders of an image that nothing looks at."""
        self._append(ids, [0] * len(ids), PAD)

    def add(self, response: list[int], segment: int) -> list[int]:
        """Append a response; returns the columns that predict its tokens, the first being the prompt's last."""
        first = len(self.ids)
        self._append(response, range(self.start, self.start + len(response)), segment)
        return [len(self.prompt) - 1, *range(first, first + len(response) - 1)][: len(response)]

    def _append(self, ids: list[int], positions: Iterable[int], segment: int) -> None:
        self.ids += ids
        self.segment += [segment] * len(ids)
        for axis in self.positions:
            axis += positions


class PackedCollator(Collator):
    """Packs the rows of an item that share a view of the image behind one prompt."""

    def __call__(self, items: Sequence[Item]) -> PackedBatch:
        """One line per item and view."""
        names, family = tuple(self.groups[0]), self.encoder.family
        lines: list[_Line] = []
        images = Images(self.encoder)
        # (line, columns, tokens) of each sequence, by its place in the table
        sequences: dict[int, tuple[int, list[int], list[int]]] = {}
        for position, item in enumerate(items):
            line_of: dict[str, int] = {}
            for number, name in enumerate(names):
                row = self.groups[item.group][name]
                shown = self.shown(item, row)
                if row.image not in line_of:
                    line_of[row.image] = len(lines)
                    prompt, places = self.encoder.prompt(shown)
                    lines.append(_Line(prompt, family.positions(prompt, self.encoder.image_token, places)))
                    images.add(shown.images)
                index = line_of[row.image]
                response = self.clipped(lines[index].prompt, shown, row.response)
                sequences[number * len(items) + position] = (index, lines[index].add(response, number + 1), response)
        if self.blank_image and not images:
            blank = BlankImage(BLANK)
            lines[0].blank(self.encoder.ids_of(*self.encoder.places([blank])))
            images.add([blank])
        time = max(len(line.ids) for line in lines)
        time += -time % MULTIPLE
        ordered = [sequences[place] for place in range(len(sequences))]
        axes = [padded([line.positions[axis] for line in lines], 0, time) for axis in range(len(lines[0].positions))]
        lengths = torch.tensor([len(tokens) for _, _, tokens in ordered])
        source = [line * time + column for line, columns, _ in ordered for column in columns]
        return PackedBatch(
            rows=names,
            input_ids=padded([line.ids for line in lines], self.encoder.pad_id, time),
            position_ids=torch.stack(axes) if len(axes) > 1 else axes[0],
            segment=padded([line.segment for line in lines], PAD, time),
            source=torch.tensor(source, dtype=torch.long),  # even of no values: every response may be empty
            target=torch.tensor([token for _, _, tokens in ordered for token in tokens], dtype=torch.long),
            target_mask=torch.arange(int(lengths.max())) < lengths[:, None],
            **self.of_items(items),
            images=images.of_batch(self.features),
        )


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
