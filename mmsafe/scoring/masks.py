"""Who looks at whom in packed lines, in the form that each attention implementation takes."""

from typing import Any

import torch
from torch import Tensor

from mmsafe.models.family import Mask, family_of


def masks_for(model: Any, allowed: Mask, order: Tensor, ids: Tensor, attention: str) -> Any:
    """One mask, or one for each kind of attention: bools for `sdpa`, numbers for `eager`, blocks for `flex_attention`.

    `order` and `ids` as in `Family.masks`. Blocks leave out what nobody looks at, and all layers share them; the others
    are tables of `[lines, 1, time, time]`.
    """
    masks = family_of(model.config.model_type).masks(model, allowed, order, ids)
    formed = {kind: _formed(mask, ids, attention, model.dtype) for kind, mask in masks.items()}
    return formed if len(formed) > 1 else next(iter(formed.values()))


def dense(mask: Mask, ids: Tensor) -> Tensor:
    """A mask between all places of lines like `ids`, `[lines, time]`, as a table; `[lines, 1, time, time]`."""
    lines, columns = (torch.arange(size, device=ids.device) for size in ids.shape)
    return mask(lines[:, None, None], lines[:1], columns[:, None], columns)[:, None]


def _formed(mask: Mask, ids: Tensor, attention: str, dtype: torch.dtype) -> Any:
    if attention == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        lines, time = ids.shape
        return create_block_mask(mask, lines, None, time, time, device=ids.device)
    table = dense(mask, ids)
    if attention != "eager":
        return table
    return torch.zeros(table.shape, dtype=dtype, device=ids.device).masked_fill(~table, torch.finfo(dtype).min)
