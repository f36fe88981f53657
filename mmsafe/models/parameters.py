"""How many parameters each part of a model has, and how many of them are trained."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

PARTS = {
    ".lora_": "LoRA",
    "vision_tower.": "vision tower",
    "multi_modal_projector.": "projector",
    "language_model.": "language model",
    "lm_head.": "LM head",
}
"""What a parameter's name contains, and the part that it belongs to; the first that fits."""
SET_ASIDE = ".original_module."
"""In the names of the projector as it was: not part of the policy while a trained copy stands in for it."""


class Count(NamedTuple):
    """Parameters of a part."""

    total: int
    trainable: int


def count_parameters(model: nn.Module) -> dict[str, Count]:
    """Parameters of each part that `model` has; one in 4 bits counts as the one it stands for."""
    counts = {part: Count(0, 0) for part in [*list(PARTS.values())[1:], PARTS[".lora_"]]}
    for name, parameter in model.named_parameters():
        if SET_ASIDE in name:
            continue
        part = next(part for mark, part in PARTS.items() if mark in name)
        size = _size(parameter)
        counts[part] = Count(counts[part].total + size, counts[part].trainable + size * parameter.requires_grad)
    return {part: count for part, count in counts.items() if count.total}


def _size(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)  # of bitsandbytes: two weights to a byte
    return parameter.numel() if packed is None else int(packed.shape.numel())
