"""Batches in which every prompt stands once, with all its responses behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from mmsafe.models.family import Mask, family_of
from mmsafe.scoring.collate import Batch, Collator, Item, padded
from mmsafe.scoring.features import BlankImage, Images

MULTIPLE = 8
"""Lines are padded to a multiple of this: attention kernels want aligned masks."""
PROMPT, PAD = 0, -1
BLANK = 64
"""Pixels of a side of an image that nothing looks at."""


@dataclass(kw_only=True)
class PackedBatch(Batch):
    """A line for each question and view of its image, a tree `[prompt | response | response | …]`, or all in one line.

    Positions go on from the prompt's end in every response. The table of log-probs is `[rows * batch, longest]`.
    """

    position_ids: Tensor
    """`[lines, time]`, or `[axes, lines, time]` in families with several axes."""
    order: Tensor
    """The number of each token in its own sequence, prompt and response; `[lines, time]`."""
    tree: Tensor
    """The number of its tree in each line; padding at the end counts to the last; `[lines, time]`."""
    segment: Tensor
    """0 in the prompt, 1, 2, … by row in the responses, -1 in the padding; `[lines, time]`."""
    source: Tensor
    """Where each response token is predicted, in the flattened `[lines * time]`; `[targets]`, in table order."""
    target: Tensor
    """The response tokens; `[targets]`."""

    @property
    def padding(self) -> int:
        """Positions of padding, those of a blank image among them."""
        return int((self.segment == PAD).sum())

    def attention_mask(self) -> Tensor:
        """True where a token may look, as `allowed` says; `[lines, 1, time, time]`."""
        return self._dense(self.allowed())

    def allowed(self) -> Mask:
        """A token looks at its own tree's prompt and its own response, never ahead.

        Padding sees a prompt, so that no row is empty; nothing sees padding but padding.
        """
        tree, segment = self.tree, self.segment

        def visible(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = segment[line, key]
            branch = (seen == PROMPT) | (seen == segment[line, query])
            return (query >= key) & (tree[line, key] == tree[line, query]) & branch

        return visible

    def mask_for(self, model: Any, attention: str) -> Any:
        """What the language model takes: bools for `sdpa`, numbers for `eager`, blocks for `flex_attention`."""
        family = family_of(model.config.model_type)
        masks: dict[str, Any] = {}
        for kind, allowed in family.masks(model, self.allowed(), self.order, self.input_ids).items():
            if attention == "flex_attention":
                masks[kind] = self._blocks(allowed)
            else:
                dense = self._dense(allowed)
                masks[kind] = _additive(dense, model.dtype) if attention == "eager" else dense
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _dense(self, allowed: Mask) -> Tensor:
        lines, columns = (torch.arange(size, device=self.segment.device) for size in self.segment.shape)
        return allowed(lines[:, None, None], lines[:1], columns[:, None], columns)[:, None]

    def _blocks(self, allowed: Mask) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        lines, time = self.segment.shape
        return create_block_mask(allowed, lines, None, time, time, device=self.segment.device)


class _Tree:
    """A prompt and its responses while they are put together."""

    def __init__(self, prompt: list[int], positions: list[list[int]]) -> None:
        self.prompt = prompt
        self.ids = list(prompt)
        self.order = list(range(len(prompt)))
        self.positions = [list(axis) for axis in positions]
        self.start = 1 + max(max(axis, default=-1) for axis in positions)
        self.segment = [PROMPT] * len(prompt)

    def pad(self, ids: list[int]) -> None:
        """Append tokens that nothing looks at."""
        self._append(ids, [0] * len(ids), [0] * len(ids), PAD)

    def add(self, response: list[int], segment: int) -> list[int]:
        """Append a response; returns the columns that predict its tokens, the first being the prompt's last."""
        first, steps = len(self.ids), range(len(response))
        behind, positions = ([start + step for step in steps] for start in (len(self.prompt), self.start))
        self._append(response, behind, positions, segment)
        return [len(self.prompt) - 1, *range(first, first + len(response) - 1)][: len(response)]

    def _append(self, ids: list[int], order: list[int], positions: list[int], segment: int) -> None:
        self.ids += ids
        self.order += order
        self.segment += [segment] * len(ids)
        for axis in self.positions:
            axis += positions


class PackedCollator(Collator):
    """Packs the rows of an item that share a view of the image behind one prompt."""

    def __call__(self, items: Sequence[Item]) -> PackedBatch:
        """One line per item and view; with `max_tokens`, one line of all."""
        names, family = tuple(self.groups[0]), self.encoder.family
        trees: list[_Tree] = []
        images = Images(self.encoder)
        # (tree, columns, tokens) of each sequence, by its place in the table
        sequences: dict[int, tuple[int, list[int], list[int]]] = {}
        for position, item in enumerate(items):
            tree_of: dict[str, int] = {}
            for number, name in enumerate(names):
                row = self.groups[item.group][name]
                shown = self.shown(item, row)
                if row.image not in tree_of:
                    tree_of[row.image] = len(trees)
                    prompt, places = self.encoder.prompt(shown)
                    trees.append(_Tree(prompt, family.positions(prompt, self.encoder.image_token, places)))
                    images.add(shown.images)
                index = tree_of[row.image]
                response = self.clipped(trees[index].prompt, shown, row.response)
                sequences[number * len(items) + position] = (index, trees[index].add(response, number + 1), response)
        if self.blank_image and not images:
            blank = BlankImage(BLANK)
            trees[0].pad(self.encoder.ids_of(*self.encoder.places([blank])))
            images.add([blank])
        lines = [[tree] for tree in trees] if self.max_tokens is None else [trees]
        time = max(sum(len(tree.ids) for tree in line) for line in lines)
        time += -time % MULTIPLE
        begins = [
            number * time + before
            for number, line in enumerate(lines)
            for before in accumulate((len(tree.ids) for tree in line[:-1]), initial=0)
        ]

        def table(of: Callable[[_Tree], list[int]], fill: int) -> Tensor:
            return padded([[value for tree in line for value in of(tree)] for line in lines], fill, time)

        axes = [table(lambda tree, axis=axis: tree.positions[axis], 0) for axis in range(len(trees[0].positions))]
        numbers = [[number for number, tree in enumerate(line) for _ in tree.ids] for line in lines]
        ordered = [sequences[place] for place in range(len(sequences))]
        lengths = torch.tensor([len(tokens) for _, _, tokens in ordered])
        source = [begins[tree] + column for tree, columns, _ in ordered for column in columns]
        return PackedBatch(
            rows=names,
            input_ids=table(lambda tree: tree.ids, self.encoder.pad_id),
            position_ids=torch.stack(axes) if len(axes) > 1 else axes[0],
            order=table(lambda tree: tree.order, 0),
            tree=padded(numbers, len(lines[0]) - 1, time),
            segment=table(lambda tree: tree.segment, PAD),
            source=torch.tensor(source, dtype=torch.long),  # even of no values: every response may be empty
            target=torch.tensor([token for _, _, tokens in ordered for token in tokens], dtype=torch.long),
            target_mask=torch.arange(int(lengths.max())) < lengths[:, None],
            **self.of_items(items),
            images=images.of_batch(self.features),
        )


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
