"""A tiny LLaVA-1.5 in its original format, written without the code under test."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WORDS = [
    *("▁A", "▁chat", "▁between", "▁a", "▁curious", "▁user", "▁and", "▁an", "▁artificial", "▁intelligence"),
    *("▁assistant", "▁The", "▁gives", "▁helpful", "▁detailed", "▁polite", "▁answers", "▁to", "▁the", "▁questions"),
    *("▁USER", "▁ASSISTANT", "▁yes", "▁no", "USER", "What", "Why"),
]
"""Tokens 259, 260, … in this order; behind them stand the characters of ASCII, then the steps that make words."""
CHARACTERS = ["▁", *(chr(code) for code in range(33, 127))]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2
VISION, VISION_INNER, VISION_LAYERS, IMAGE, PATCH = 16, 24, 3, 16, 8


def vocabulary() -> list[str]:
    """All tokens by id."""
    steps = dict.fromkeys(word[:end] for word in WORDS for end in range(2, len(word)))
    begin = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, *CHARACTERS]
    return [*begin, *(step for step in steps if step not in begin)]


VOCABULARY = len(vocabulary())


def sentencepiece_model() -> bytes:
    """`tokenizer.model`: a word is built from left to right, the words one after the other."""
    order = list(dict.fromkeys(word[:end] for word in WORDS for end in range(2, len(word) + 1)))
    data = b""
    for number, token in enumerate(vocabulary()):
        kind = {0: 2, 1: 3, 2: 3}.get(number, 6 if number < 259 else 1)
        score = -float(order.index(token)) if token in order else (-1e6 if kind == 1 else 0.0)
        text = token.encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        data += b"\x0a" + bytes([len(piece)]) + piece
    trainer = b"\x18\x02\x98\x02\x01"  # fields 3 and 35: byte pairs, bytes for unknown characters
    normalizer = b"\x0a\x08identity\x18\x01\x20\x00"
    return data + b"\x12" + bytes([len(trainer)]) + trainer + b"\x1a" + bytes([len(normalizer)]) + normalizer


def config(**changes: Any) -> dict[str, Any]:
    """`config.json`."""
    return {
        "_name_or_path": "tiny",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": 4096,
        "mm_hidden_size": VISION,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "clip",
        "model_type": "llava",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": VOCABULARY,
    } | changes


def language_shapes() -> dict[str, tuple[int, ...]]:
    """Language model and projector."""
    key = WIDTH // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
        "model.mm_projector.0.weight": (WIDTH, VISION),
        "model.mm_projector.0.bias": (WIDTH,),
        "model.mm_projector.2.weight": (WIDTH, WIDTH),
        "model.mm_projector.2.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        for name, rows in {"q_proj": WIDTH, "k_proj": key, "v_proj": key, "o_proj": WIDTH}.items():
            shapes[f"{start}self_attn.{name}.weight"] = (rows, WIDTH)
        shapes |= {f"{start}mlp.{name}.weight": (INNER, WIDTH) for name in ("gate_proj", "up_proj")}
        shapes[f"{start}mlp.down_proj.weight"] = (WIDTH, INNER)
        shapes |= {f"{start}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
    return shapes


def tower_shapes() -> dict[str, tuple[int, ...]]:
    """CLIP's vision model, named as in `openai/clip-vit-*`."""
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (VISION,),
        "vision_model.embeddings.patch_embedding.weight": (VISION, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2 + 1, VISION),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(VISION_LAYERS):
        start = f"encoder.layers.{layer}."
        norms += [f"{start}layer_norm1", f"{start}layer_norm2"]
        sides = {"mlp.fc1": (VISION_INNER, VISION), "mlp.fc2": (VISION, VISION_INNER)}
        sides |= {f"self_attn.{name}": (VISION, VISION) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        for name, shape in sides.items():
            shapes[f"vision_model.{start}{name}.weight"] = shape
            shapes[f"vision_model.{start}{name}.bias"] = shape[:1]
    for name in norms:
        shapes[f"vision_model.{name}.weight"] = shapes[f"vision_model.{name}.bias"] = (VISION,)
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights, those of norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.3 * torch.randn(shape, generator=generator) + ("norm" in name and name.endswith("weight"))).to(dtype)
        for name, shape in shapes.items()
    }


def weights(dtype: torch.dtype = torch.float16, *, tower: bool = True) -> dict[str, Tensor]:
    """All weights by their original names."""
    inside = {f"model.vision_tower.vision_tower.{name}": value for name, value in tower_weights(dtype).items()}
    return drawn(language_shapes(), 0, dtype) | (inside if tower else {})


def tower_weights(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Of the CLIP tower by itself."""
    return drawn(tower_shapes(), 1, dtype)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tower(folder: Path) -> Path:
    """A CLIP folder as on the hub: a config for images and text, weights, image preprocessing."""
    sizes = {"hidden_size": VISION, "intermediate_size": VISION_INNER, "num_hidden_layers": VISION_LAYERS}
    vision = sizes | {"num_attention_heads": 2, "image_size": IMAGE, "patch_size": PATCH}
    write_json(folder / "config.json", {"model_type": "clip", "vision_config": vision, "text_config": {}})
    size = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    write_json(folder / "preprocessor_config.json", size | {"image_processor_type": "CLIPImageProcessor"})
    save_file(tower_weights(torch.float32), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_weights(folder: Path, state: dict[str, Tensor], form: str = "safetensors", shards: int = 1) -> None:
    """One file, or `shards` with an index; `form` is `safetensors` or `bin`."""
    stem = {"safetensors": "model", "bin": "pytorch_model"}[form]
    names = [f"{stem}-{n + 1:05d}-of-{shards:05d}.{form}" if shards > 1 else f"{stem}.{form}" for n in range(shards)]
    weight_map = {name: names[number % shards] for number, name in enumerate(sorted(state))}
    for file in names:
        part = {name: state[name] for name, place in weight_map.items() if place == file}
        if form == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, {"format": "pt"})
    if shards > 1:
        write_json(folder / f"{stem}.{form}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_original(
    folder: Path, state: dict[str, Tensor] | None = None, *, form: str = "safetensors", shards: int = 1, **changes: Any
) -> Path:
    """The whole checkpoint; its tower's config, and its weights in fp32, stand in `clip/`."""
    write_json(folder / "config.json", config(**changes))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    about = {"legacy": False, "model_max_length": 2048, "padding_side": "right", "tokenizer_class": "LlamaTokenizer"}
    write_json(folder / "tokenizer_config.json", about | special)
    write_weights(folder, weights() if state is None else state, form, shards)
    write_tower(folder / "clip")
    return folder
