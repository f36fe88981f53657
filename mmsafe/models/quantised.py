"""A language model in 4 bits, as QLoRA trains on it (Dettmers et al., arXiv 2305.14314)."""

import dataclasses
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from mmsafe.core.errors import UserError
from mmsafe.models.family import family_of
from mmsafe.models.pretrained import from_pretrained
from mmsafe.models.vlm import VLM

REPACKS = "support_avx512bf16_for_cpu"
"""Where a CPU can, bitsandbytes would repack weights for evaluation and compute in bf16, and not so in training: then
reference and policy would be scored in two arithmetics."""


def quantised(vlm: VLM, compute: torch.dtype, device: torch.device) -> VLM:
    """The same model on `device`, frozen, its language model's matrices in NF4 with double quantisation.

    Works on the weights in hand, one matrix at a time, so that every model can be quantised, wherever it came from;
    `compute` is the type of matrix products. Raises `UserError` where bitsandbytes cannot work on this machine.
    """
    old: Any = vlm.model
    parts = family_of(old.config.model_type).parts
    whole = [*parts.vision, *parts.connector, *parts.language[1:]]
    try:
        model = from_pretrained(
            type(old),
            None,
            config=old.config,
            state_dict=old.state_dict(),
            dtype=old.dtype,
            attn_implementation=old.config._attn_implementation,
            device_map={"": device},
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=compute,
                llm_int8_skip_modules=whole,
            ),
        )
    except (ImportError, RuntimeError) as error:
        raise UserError(f"peft=qlora: bitsandbytes cannot work here: {' '.join(str(error).split())[:200]}") from error
    for module in model.modules():
        if hasattr(module, REPACKS):
            setattr(module, REPACKS, False)
    model.name_or_path = old.name_or_path
    model.generation_config = old.generation_config
    if getattr(vlm.source, "gradient_checkpointing", False):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return dataclasses.replace(vlm, model=model.requires_grad_(False))


def is_quantised(model: Any) -> bool:
    """Whether matrices of `model` are in 4 bits."""
    return getattr(model, "hf_quantizer", None) is not None


def dequantised(model: Any) -> Any:
    """The model with the values that its 4-bit weights stand for, changed in place, on the CPU.

    There, because a device that holds 4 bits of each weight may have no room for 16 or 32.
    """
    return model.cpu().dequantize()
