"""Positions on three axes (time, height, width), as Qwen2-VL (2409.12191) and its successors have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mmsafe.models.family import ImageInputs


class Mrope:
    """Positions on three axes (time, height, width), as Qwen2-VL and its successors have them."""

    merge: ClassVar[int] = 2
    """Patches that become one token, along a side."""

    def positions(self, ids: Sequence[int], image_token: int, images: Sequence[ImageInputs]) -> list[list[int]]:
        """As `get_rope_index` of the model, for images: a word steps on all axes, an image spans its grid."""
        grids = iter(images)
        columns: list[Tensor] = []
        cells = torch.tensor([1, self.merge, self.merge])
        start = at = 0
        while at < len(ids):
            if ids[at] != image_token:
                columns.append(torch.full((3, 1), start))
                start, at = start + 1, at + 1
                continue
            time, height, width = (next(grids).tensors["image_grid_thw"][0] // cells).tolist()
            columns.append(torch.cartesian_prod(*map(torch.arange, (time, height, width))).reshape(-1, 3).T + start)
            start, at = start + max(height, width), at + time * height * width
        positions: list[list[int]] = torch.cat(columns, dim=1).tolist()
        return positions
