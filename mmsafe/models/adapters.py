"""LoRA on the language model, with the projector trained beside it and kept with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmsafe.models.quantised import dequantised, is_quantised

if TYPE_CHECKING:
    from mmsafe.core.settings import Peft
    from mmsafe.models.llava import Llava

PROJECTOR = "multi_modal_projector"
LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Matrices with an adapter. A bare `q_proj` would also match modules of CLIP's tower."""


def add_lora(llava: Llava, options: Peft) -> None:
    """Put fresh adapters into `llava.model` in place; everything but them and a trained projector is frozen.

    Nothing changes for `peft=none`.

    PEFT keeps the trained projector as a copy beside the first one, so switching the adapter off gives back the model
    as it was, projector included. What is trained is fp32, whatever the type of the frozen weights.
    """
    if options.method == "none":
        return
    from peft import LoraConfig, PeftModel

    trained = llava.source.train
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=LINEAR,
        modules_to_save=[PROJECTOR] if trained.projector else None,
        base_model_name_or_path=_base(llava),
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        llava.adapter = PeftModel(llava.model, config)
    if trained.projector:
        wrapper: Any = llava.model.model.multi_modal_projector
        wrapper.modules_to_save["default"].float().register_forward_pre_hook(_in_own_dtype)


def _base(llava: Llava) -> str | None:
    """Where the adapter's base can be loaded from again; None lets PEFT ask the model."""
    path = getattr(llava.source, "path", None)
    folder = Path(path or "").expanduser()
    return str(folder.resolve()) if path and folder.is_dir() else path


def _in_own_dtype(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast features to the projector's dtype; PEFT does so for adapters, but not for modules that it copies."""
    dtype = next(module.parameters()).dtype
    return tuple(features.to(dtype) for features in inputs)


def merge(llava: Llava) -> None:
    """Make the adapter part of the weights, in place, and drop it; the projector that was trained stays.

    An adapter of 4-bit weights is added to what these stand for: PEFT itself would round the sum to 4 bits again.
    """
    adapter = llava.adapter
    if adapter is None:
        return
    dtype = llava.model.dtype
    if is_quantised(llava.model):
        from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

        config, state = adapter.peft_config["default"], get_peft_model_state_dict(adapter)
        adapter = PeftModel(dequantised(adapter.unload()), config)
        set_peft_model_state_dict(adapter, state)
    llava.model, llava.adapter = adapter.merge_and_unload(), None
    projector: nn.Module = llava.model.model.multi_modal_projector
    projector.to(dtype)
