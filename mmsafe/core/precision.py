"""The arithmetic of a forward pass, outside Lightning's training loop as inside it."""

import torch

from mmsafe.core.settings import Trainer

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precisions that cast while they compute; in `bf16-true` the weights themselves are bf16."""


def resolved(trainer: Trainer) -> str:
    """`trainer.precision` with `auto` decided for this machine."""
    if trainer.precision != "auto":
        return trainer.precision
    on_gpu = trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def forward_dtype(precision: str, weights: torch.dtype) -> torch.dtype:
    """The type in which matrix products are taken."""
    return torch.bfloat16 if precision == "bf16-true" else AUTOCAST.get(precision, weights)


def autocast(precision: str, device: str) -> torch.autocast:
    """The context in which Lightning runs a forward pass of this precision."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
