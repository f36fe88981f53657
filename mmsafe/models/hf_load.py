"""Reads the parts of a checkpoint as `transformers` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.original.layout import chosen_template, shipped_template
from mmsafe.models.pretrained import TEMPLATE, from_pretrained, load_model


def hf_processing(source: CheckpointOptions, folder: Path) -> tuple[Any, Any]:
    """Tokenizer and image processor, read by `transformers`."""
    pads = source.image_aspect_ratio == "pad"
    return from_pretrained(AutoTokenizer, folder), from_pretrained(LlavaImageProcessorPil, folder, do_pad=pads)


def load_hf(source: CheckpointOptions, folder: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor, read by `transformers`."""
    model = load_model(
        LlavaForConditionalGeneration,
        folder,
        allow_pickle=source.allow_pickle,
        dtype=getattr(torch, source.dtype),
        attn_implementation=source.attention,
    )
    return model, *hf_processing(source, folder)


def template_of(source: CheckpointOptions, folder: Path, tokenizer: Any, *, original: bool) -> str:
    """The chat template: of that name in `mmsafe/models/templates/`, a Jinja file, or the checkpoint's own."""
    if source.chat_template is not None:
        return chosen_template(source.chat_template)
    if original:  # LLaVA-1.5's own, unless `mmsafe.export` put another beside the weights
        path = folder / TEMPLATE
        return path.read_text(encoding="utf-8") if path.is_file() else shipped_template("vicuna_v1")
    template = getattr(from_pretrained(AutoProcessor, folder), "chat_template", None) or tokenizer.chat_template
    if not isinstance(template, str) or not template:
        raise CheckpointError("has no chat template; set model.chat_template to a Jinja file")
    return template
