"""Batches in which every prompt stands once, with all its responses behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmsafe.scoring.batch_images import BlankImage, Images
from mmsafe.scoring.collate import Batch, Collator, Item

MULTIPLE = 8
"""Lines are padded to a multiple of this: attention kernels want aligned masks."""
PROMPT, PAD = 0, -1


@dataclass(kw_only=True)
class PackedBatch(Batch):
    """One line per (item, view of the image): `[prompt | response | response | … | padding]`.

    Positions go on from the prompt's end in every response. The table of log-probs is `[rows * batch, longest]`.
    """

    position_ids: Tensor
    """`[lines, time]`"""
    segment: Tensor
    """0 in the prompt, 1, 2, … in the responses, -1 in the padding; `[lines, time]`."""
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


@dataclass
class _Line:
    """One line while it is put together."""

    ids: list[int]
    position: list[int] = field(init=False)
    segment: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = len(self.ids)
        self.position = list(range(self.prompt))
        self.segment = [PROMPT] * self.prompt
        self.responses = 0

    def blank(self, ids: list[int]) -> None:
        """Append the placeholders of an image that nothing looks at."""
        self.ids += ids
        self.position += [0] * len(ids)
        self.segment += [PAD] * len(ids)

    def add(self, response: list[int]) -> list[int]:
        """Append a response; returns the columns that predict its tokens, the first being the prompt's last."""
        self.responses += 1
        first = len(self.ids)
        self.ids += response
        self.position += range(self.prompt, self.prompt + len(response))
        self.segment += [self.responses] * len(response)
        return [self.prompt - 1, *range(first, first + len(response) - 1)][: len(response)]


class PackedCollator(Collator):
    """Packs the rows of an item that share a view of the image behind one prompt."""

    def __call__(self, items: Sequence[Item]) -> PackedBatch:
        """One line per item and view."""
        names = tuple(self.groups[0])
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
                    lines.append(_Line(self.encoder.prompt_ids(shown)))
                    images.add(shown.image)
                index = line_of[row.image]
                line = lines[index]
                response = self.clipped(line.ids[: line.prompt], shown, row.response)
                sequences[number * len(items) + position] = (index, line.add(response), response)
        if self.blank_image and not images:
            lines[0].blank(self.encoder.image_ids)
            images.add(BlankImage(self.encoder.image_size))
        time = max(len(line.ids) for line in lines)
        time += -time % MULTIPLE
        ordered = [sequences[place] for place in range(len(sequences))]
        return PackedBatch(
            rows=names,
            input_ids=_table([line.ids for line in lines], self.encoder.pad_id, time),
            position_ids=_table([line.position for line in lines], 0, time),
            segment=_table([line.segment for line in lines], PAD, time),
            source=_indices(line * time + column for line, columns, _ in ordered for column in columns),
            target=_indices(token for _, _, tokens in ordered for token in tokens),
            target_mask=_mask([len(tokens) for _, _, tokens in ordered]),
            **self.of_items(items),
            **images.fields(self.features),
        )


def _indices(values: Iterable[int]) -> Tensor:
    """An integer tensor even of no values, since every response of a batch may be empty."""
    return torch.tensor(list(values), dtype=torch.long)


def _table(rows: list[list[int]], fill: int, width: int) -> Tensor:
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
