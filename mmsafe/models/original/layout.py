"""The original LLaVA-1.5 format: its names of weights and its config, to and from those of `transformers`."""

from collections.abc import Mapping
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mmsafe.models.checkpoints import CheckpointError

TOWER = "model.vision_tower.vision_tower.vision_model."
HF_TOWER = "model.vision_tower."
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
"""The weights with a row for each token."""
COMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Ends of names of what older versions saved although it is no weight."""
LANGUAGE = [name for name in LlamaConfig.__annotations__ if name not in ("pad_token_id", "rope_parameters")]
"""Entries of a Llama's config that stand at the top of the original's."""
SELECT = {"patch": "default", "cls_patch": "full"}
ONLY: Mapping[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": tuple(SELECT),
    "mm_use_im_start_end": (False,),
    "mm_patch_merge_type": ("flat",),
    "image_aspect_ratio": ("pad", "square"),
}
"""What can be loaded of the entries with a choice; where one is absent, LLaVA-1.5's is meant."""
CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
TOWERS = {
    "openai/clip-vit-large-patch14-336": CLIPVisionConfig(**CLIP_L, image_size=336),
    "openai/clip-vit-large-patch14": CLIPVisionConfig(**CLIP_L, image_size=224),
}
"""Towers whose config is known here: where the checkpoint has their weights, nothing is downloaded."""


def check_supported(original: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for another LLaVA than 1.5."""
    if original.get("image_aspect_ratio") == "anyres" or "spatial" in str(original.get("mm_patch_merge_type")):
        raise CheckpointError("holds a LLaVA-NeXT (1.6) in its original format; only LLaVA-1.5 can be loaded")
    if not all("LlavaLlama" in name for name in original.get("architectures") or []):
        raise CheckpointError(f"holds a {original['architectures'][0]}; only LlavaLlamaForCausalLM can be loaded")
    for name, allowed in ONLY.items():
        if original.get(name, allowed[0]) not in allowed:
            raise CheckpointError(f"config.json: {name}={original[name]} is not LLaVA-1.5's ({allowed[0]})")
    if absent := [name for name in ("mm_vision_tower", "mm_projector_type", "vocab_size") if name not in original]:
        raise CheckpointError(f"config.json has no {absent[0]}, which the original format needs")


def check_fits(config: Any) -> None:
    """Raise `CheckpointError` for a model of `config` that the original format cannot hold."""
    if config.model_type != "llava":
        raise CheckpointError(f"holds a '{config.model_type}' model; only LLaVA-1.5 has an original format")
    kinds = [config.text_config.model_type, config.vision_config.model_type]
    if kinds != ["llama", "clip_vision_model"]:
        raise CheckpointError(f"the original format holds a Llama that sees by CLIP, not {' and '.join(kinds)}")
    odd = not isinstance(config.vision_feature_layer, int) or not config.multimodal_projector_bias
    if odd or config.projector_hidden_act != "gelu":
        raise CheckpointError("the original format needs LLaVA-1.5's projector, on one layer of the tower")


def hf_config(original: Mapping[str, Any], vision: Any, *, rows: int, image_id: int, pad_id: int) -> LlavaConfig:
    """The config of the same model in `transformers`, its vocabulary extended to `rows`.

    The original entries travel along in `original_config`, so that they can be written back.
    """
    flat = {name: original[name] for name in LANGUAGE if original.get(name) is not None}
    rope = {name: original[name] for name in ("rope_theta", "rope_scaling") if original.get(name) is not None}
    text: Any = LlamaConfig(**(flat | rope | {"vocab_size": rows, "pad_token_id": pad_id}))
    config: Any = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=original.get("mm_vision_select_layer", -2),
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    config.vision_feature_select_strategy = SELECT[original.get("mm_vision_select_feature", "patch")]
    config.original_config = dict(original)
    return config  # type: ignore[no-any-return]


def original_config(config: Any, *, vocabulary: int, tower: str, pad: bool, dtype: str) -> dict[str, Any]:
    """The config in the original format: the entries that came with the model, or made from `config`.

    `unfreeze_mm_vision_tower` is always set: without it LLaVA's own code takes the tower from the hub, not from the
    checkpoint, where it may have been trained.
    """
    text = config.text_config
    rope = dict(text.rope_parameters or {})
    made = {name: getattr(text, name) for name in LANGUAGE if hasattr(text, name)}
    made |= {"rope_theta": rope.pop("rope_theta", 10000.0), "rope_scaling": rope if len(rope) > 1 else None}
    made |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": {hf: name for name, hf in SELECT.items()}[config.vision_feature_select_strategy],
        "mm_vision_select_layer": config.vision_feature_layer,
        "pad_token_id": 0,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
    }
    fixed = {
        "image_aspect_ratio": "pad" if pad else "square",
        "mm_vision_tower": tower,
        "torch_dtype": dtype,
        "unfreeze_mm_vision_tower": True,
        "vocab_size": vocabulary,
    }
    return (getattr(config, "original_config", None) or made) | fixed


def name_map(model: LlavaForConditionalGeneration) -> dict[str, str]:
    """The original name of each weight of `model`."""
    nested = "vision_model." if hasattr(model.model.vision_tower, "vision_model") else ""
    beginnings = {
        f"model.vision_tower.{nested}": TOWER,
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "model.language_model.": "model.",
        "lm_head.": "lm_head.",
    }
    names = {}
    for name in model.state_dict():
        if not name.endswith(COMPUTED):
            beginning = next(start for start in beginnings if name.startswith(start))
            names[name] = beginnings[beginning] + name.removeprefix(beginning)
    return names
