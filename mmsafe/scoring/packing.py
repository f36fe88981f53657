"""Batches in which every prompt stands once, with all its responses behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from mmsafe.models.family import Mask, position_ids
from mmsafe.scoring.collate import Batch, Collator, Item, padded
from mmsafe.scoring.features import BlankImage, Images
from mmsafe.scoring.masks import dense

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

    def attention_mask(self) -> Tensor:
        """True where a token may look, as `allowed` says; `[lines, 1, time, time]`."""
        return dense(self.allowed(), self.segment)

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
        sizes, count, alone = [len(tree.ids) for tree in trees], len(trees), self.max_tokens is None
        time = max(sizes) if alone else sum(sizes)
        time += -time % MULTIPLE
        begins = range(0, count * time, time) if alone else list(accumulate(sizes, initial=0))
        numbers = [0] * count if alone else range(count)

        def table(values: Sequence[list[int]], fill: int) -> Tensor:
            return padded(list(values) if alone else [list(chain.from_iterable(values))], fill, time)

        ordered = [sequences[place] for place in range(len(sequences))]
        lengths = torch.tensor([len(tokens) for _, _, tokens in ordered])
        source = [begins[tree] + column for tree, columns, _ in ordered for column in columns]
        segment = table([tree.segment for tree in trees], PAD)
        return PackedBatch(
            rows=names,
            input_ids=table([tree.ids for tree in trees], self.encoder.pad_id),
            position_ids=position_ids([tree.positions for tree in trees], lambda axis: table(axis, 0)),
            order=table([tree.order for tree in trees], 0),
            tree=table([[number] * size for number, size in zip(numbers, sizes, strict=True)], numbers[-1]),
            segment=segment,
            padding=int((segment == PAD).sum()),
            source=torch.tensor(source, dtype=torch.long),  # even of no values: every response may be empty
            target=torch.tensor([token for _, _, tokens in ordered for token in tokens], dtype=torch.long),
            target_mask=torch.arange(int(lengths.max())) < lengths[:, None],
            **self.of_items(items),
            images=images.of_batch(self.features),
        )
