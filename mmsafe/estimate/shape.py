"""The sizes of a LLaVA without its weights: from a config, parameters counted on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

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
    text, vision = model.config.text_config, model.config.vision_config
    inner = model.model
    layers = _count(inner.language_model.layers)
    matrices = sum(p.numel() for p in inner.language_model.layers.parameters() if p.dim() == 2)
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        width=text.hidden_size,
        inner=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        key_width=text.num_key_value_heads * head_width,
        vocabulary=text.vocab_size,
        vision_width=vision.hidden_size,
        vision_inner=vision.intermediate_size,
        vision_layers=vision.num_hidden_layers,
        image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision=_count(inner.vision_tower),
        projector=_count(inner.multi_modal_projector),
        embedding=_count(inner.language_model.embed_tokens),
        matrices=matrices,
        norms=layers - matrices + _count(inner.language_model.norm),
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
        return _read(folder / "model" if (folder / "model" / "config.json").exists() else folder)
    if source.path in LLAVA15:
        return _llava15(LLAVA15[source.path])
    if source.path.startswith((".", "/", "~")) or source.path.count("/") != 1:
        raise UserError(f"model.path={source.path}: no such folder")
    try:
        return from_pretrained(AutoConfig, source.path, local_files_only=True)
    except (OSError, ValueError):
        return None


def _read(folder: Path) -> Any:
    check_files(folder)
    found = read_json(folder / "config.json")
    if format_of_config(found) == "original":
        return _llava15(tuple(found[name] for name in SIZES))
    return from_pretrained(AutoConfig, folder)


def _llava15(sizes: tuple[int, ...]) -> LlavaConfig:
    """CLIP-L at 336 pixels before a Llama of these `SIZES`."""
    width, inner, layers, heads = sizes
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,  # 32,000 of Llama, `<image>`, `<pad>`, and up to a multiple of 64
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=False,
    )
    return LlavaConfig(vision_config=vision, text_config=text)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
