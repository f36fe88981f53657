"""The sizes of a LLaVA without its weights: from a config, parameters counted on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmsafe.core.errors import UserError
from mmsafe.estimate.plan import Shape
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.checkpoints import format_of_config, read_json
from mmsafe.models.model_source import ModelSource, PretrainedLlava
from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
VICUNA_7B, VICUNA_13B = (4096, 11008, 32, 32), (5120, 13824, 40, 40)
LLAVA15 = {
    "llava-hf/llava-1.5-7b-hf": VICUNA_7B,
    "llava-hf/llava-1.5-13b-hf": VICUNA_13B,
    "liuhaotian/llava-v1.5-7b": VICUNA_7B,
    "liuhaotian/llava-v1.5-13b": VICUNA_13B,
}
"""Known without the files: Vicuna's sizes; all else is the same in both (Liu et al., arXiv 2310.03744)."""


def shape_of(source: ModelSource) -> Shape | None:
    """Sizes of the model that `source` would load; None for a hub name that is neither known nor on this machine.

    Raises `UserError` for a folder without a LLaVA's `config.json`.
    """
    with in_one_line(f"model.path={getattr(source, 'path', None)}"):
        config = _config(source)
        if config is None:
            return None
        with torch.device("meta"):
            return measured(LlavaForConditionalGeneration(config))


def measured(model: Any) -> Shape:
    """Sizes of a model at hand, on whatever device."""
    inner = model.model
    layers = inner.language_model.layers
    matrices = sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    return Shape(
        text=model.config.text_config,
        clip=model.config.vision_config,
        vision=_count(inner.vision_tower),
        projector=_count(inner.multi_modal_projector),
        embedding=_count(inner.language_model.embed_tokens),
        matrices=matrices,
        norms=_count(layers) - matrices + _count(inner.language_model.norm),
        head=_count(model.lm_head),
    )


def _config(source: ModelSource) -> Any:
    if isinstance(source, TinyModel):
        from mmsafe.microworld.tiny_build import make_config, make_tokenizer

        return make_config(source.architecture, make_tokenizer(source.architecture.vocabulary))
    if not isinstance(source, PretrainedLlava) or source.path is None:
        return None
    folder = Path(source.path).expanduser()
    if folder.is_dir():
        folder = folder / "model" if (folder / "model" / "config.json").exists() else folder
        check_files(folder)
        about = read_json(folder / "config.json")
        original = format_of_config(about) == "original"
        return _llava15([about[name] for name in SIZES]) if original else from_pretrained(AutoConfig, folder)
    if source.path in LLAVA15:
        return _llava15(LLAVA15[source.path])
    if source.path.startswith((".", "/", "~")) or source.path.count("/") != 1:
        raise UserError(f"model.path={source.path}: no such folder")
    try:
        return from_pretrained(AutoConfig, source.path, local_files_only=True)
    except (OSError, ValueError):
        return None


def _llava15(sizes: Any) -> LlavaConfig:
    """CLIP-L at 336 pixels, the default of `LlavaConfig`, before a Llama of these `SIZES`."""
    rows = 32064  # 32,000 of Llama, `<image>`, `<pad>`, and up to a multiple of 64
    return LlavaConfig(text_config=LlamaConfig(vocab_size=rows, **dict(zip(SIZES, sizes, strict=True))))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
