"""The mask of a packed batch in the form that each attention implementation of `transformers` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmsafe.scoring.packing import PackedBatch


def for_attention(name: str, batch: PackedBatch, dtype: torch.dtype) -> Any:
    """Bool for `sdpa`, additive for `eager` (which would take a bool for numbers), blocks for `flex_attention`."""
    if name == "flex_attention":
        return _blocks(batch.segment)
    mask = batch.attention_mask()
    return mask if name == "sdpa" else _additive(mask, dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _blocks(segment: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shared = segment[line, key] == 0
        return (query >= key) & (shared | (segment[line, key] == segment[line, query]))

    lines, time = segment.shape
    return create_block_mask(allowed, lines, None, time, time, device=segment.device)
