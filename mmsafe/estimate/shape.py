"""The sizes of a model without its weights: from a config, parameters counted on the meta device."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, LlavaConfig

from mmsafe.core.errors import UserError
from mmsafe.estimate.plan import Shape
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.checkpoints import read_json
from mmsafe.models.family import family_of
from mmsafe.models.formats import format_of_config
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line, new_model

PHOTO = (480, 640)
"""Height and width of an image where its size decides how many tokens it is."""
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

    Raises `UserError` for a folder without the `config.json` of a model that is known.
    """
    with in_one_line(f"model.path={getattr(source, 'path', None)}"):
        config = _config(source)
        if config is None:
            return None
        with torch.device("meta"):
            model = new_model(config)
        one_size = family_of(config.model_type).one_size
        return measured(model, None if one_size else source.encoder().place(PHOTO, 1).tokens)


def measured(model: Any, image_tokens: int | None = None) -> Shape:
    """Sizes of a model at hand, on whatever device; `image_tokens` is None where they are the patches of its tower."""
    parts, tower = family_of(model.config.model_type).parts, model.config.vision_config
    language = model.get_submodule(parts.language[0])
    count = Counter({"vision": 0, "connector": 0, "language": 0})
    for name, parameter in model.named_parameters():  # each once, though it be embedding and head
        count[parts.of(name)] += parameter.numel()
    matrices = [parameter.shape for parameter in language.layers.parameters() if parameter.dim() == 2]
    tied = model.lm_head.weight is language.embed_tokens.weight
    projections, head, embedding = sum(a * b for a, b in matrices), _count(model.lm_head), _count(language.embed_tokens)
    patches = image_tokens or (tower.image_size // tower.patch_size) ** 2
    return Shape(
        text=model.config.get_text_config(),
        tower=tower,
        image_tokens=patches,
        patches=patches + 1,
        vision=count["vision"],
        projector=count["connector"],
        embedding=0 if tied else embedding,
        matrices=projections,
        lora_width=sum(a + b for a, b in matrices),
        norms=count["language"] - projections - head - (0 if tied else embedding),
        head=head,
    )


def _config(source: ModelSource) -> Any:
    if isinstance(source, TinyModel):
        from mmsafe.microworld.tiny_build import parts

        return parts(source)[0]
    if not isinstance(source, Pretrained) or source.path is None:
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
