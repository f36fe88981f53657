"""LoRA on the language model, with the projector trained beside it and kept with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mmsafe.models.llava import Llava
    from mmsafe.settings import Peft

PROJECTOR = "multi_modal_projector"
LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Never a bare `q_proj`: CLIP's tower has modules of that name too."""


def add_lora(llava: Llava, options: Peft) -> None:
    """Put fresh adapters into `llava.model` in place; everything but them and a trained projector is frozen.

    PEFT keeps the trained projector as a copy beside the first one, so switching the adapter off gives back the model
    as it was, projector included.
    """
    from peft import LoraConfig, PeftModel

    trained = llava.source.train
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=LINEAR,
        modules_to_save=[PROJECTOR] if trained.projector else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        llava.adapter = PeftModel(llava.model, config)


def merge(llava: Llava) -> None:
    """Make the adapter part of the weights, in place, and drop it; the projector that was trained stays."""
    if llava.adapter is not None:
        merged: Any = llava.adapter.merge_and_unload()
        llava.model, llava.adapter = merged, None
