"""Parameters of one published model of each family, from configs written by hand, on the meta device.

The configs are those of the checkpoints on the hub, as far as sizes go. `total` is, to the last weight, what the hub
counts in the files of a checkpoint (safetensors metadata), and for

- LLaVA-NeXT that of LLaVA-1.5-7B and one token of 4,096 numbers, for the end of a row (7.06 B by its card);
- InternVL that of InternVL2.5-1B, which has the same parts as InternVL3-1B (0.9 B by its card);
- LLaVA-OneVision only what its card says, 8.03 B: compared to 1 %.

`language` is the published language model that each is built on, its embedding as large as it is here: Vicuna-7B
(6,738,415,616) and 64 rows of two matrices, Qwen2-7B (7,615,616,512) with and without such rows, Qwen3-8B, Gemma 3's
text model, Qwen2.5-0.5B (494,032,768) with a head of its own and 262 rows less, and SmolLM2-1.7B (1,711,376,384)
with a head of its own and 128 rows more.
"""

from collections import Counter
from typing import Any

import pytest
import torch
import transformers

from mmsafe.estimate.shape import measured
from mmsafe.models.family import families, family_of
from mmsafe.models.parameters import count_parameters
from mmsafe.models.pretrained import new_model

CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CLIP |= {"image_size": 336, "patch_size": 14, "projection_dim": 768, "model_type": "clip_vision_model"}
SIGLIP: dict[str, Any] = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "patch_size": 14}


def text(width: int, inner: int, layers: int, heads: int, shared: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        **more,
    }


VICUNA = text(4096, 11008, 32, 32, 32, 32064, model_type="llama")
PUBLISHED: dict[str, tuple[int, float, int, dict[str, Any]]] = {
    "llava": (7_063_427_072, 0, 6_738_415_616 + 2 * 64 * 4096, {"vision_config": CLIP, "text_config": VICUNA}),
    "llava_next": (
        7_063_427_072 + 4096,
        0,
        6_738_415_616 + 2 * 64 * 4096,
        {"vision_config": CLIP, "text_config": VICUNA},
    ),
    "llava_onevision": (
        8_030_000_000,
        0.01,
        7_615_616_512 + 2 * 64 * 3584,
        {
            "vision_config": {
                **SIGLIP,
                "num_hidden_layers": 26,
                "image_size": 384,
                "vision_use_head": False,
                "model_type": "siglip_vision_model",
            },
            "text_config": text(3584, 18944, 28, 28, 4, 152128, model_type="qwen2"),
            "tie_word_embeddings": False,
        },
    ),
    "qwen2_5_vl": (
        8_292_166_656,
        0,
        7_615_616_512,
        {
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "patch_size": 14,
                "out_hidden_size": 3584,
            },
            "text_config": text(3584, 18944, 28, 28, 4, 152064),
            "tie_word_embeddings": False,
        },
    ),
    "qwen3_vl": (
        8_767_123_696,
        0,
        8_190_735_360,
        {
            "vision_config": {
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_heads": 16,
                "patch_size": 16,
                "deepstack_visual_indexes": [8, 16, 24],
                "out_hidden_size": 4096,
                "num_position_embeddings": 2304,
            },
            "text_config": text(4096, 12288, 36, 32, 8, 151936, head_dim=128),
            "tie_word_embeddings": False,
        },
    ),
    "smolvlm": (
        2_246_784_880,
        0,
        1_711_376_384 + (49_280 + 128) * 2048,
        {
            "vision_config": {**SIGLIP, "num_hidden_layers": 27, "image_size": 384},
            "text_config": text(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
            "scale_factor": 3,
            "tie_word_embeddings": False,
        },
    ),
    "internvl": (
        938_193_024,
        0,
        494_032_768 + (151_674 - 262) * 896,
        {
            "vision_config": {**CLIP, "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
            | {"model_type": "internvl_vision"},
            "text_config": text(896, 4864, 24, 14, 2, 151674, model_type="qwen2"),
            "tie_word_embeddings": False,
        },
    ),
    "gemma3": (
        4_300_079_472,
        0,
        3_880_263_168,
        {
            "vision_config": {**SIGLIP, "num_hidden_layers": 27, "image_size": 896, "vision_use_head": False},
            "text_config": text(2560, 10240, 34, 8, 4, 262208, head_dim=256),
        },
    ),
}


def test_all_families_are_here():
    assert PUBLISHED.keys() == {family.name for family in families()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_model(name: str):
    total, tolerance, language, sizes = PUBLISHED[name]
    with torch.device("meta"):
        model = new_model(transformers.AutoConfig.for_model(name, **sizes))
    count: Counter[str] = Counter()
    for parameter, weight in model.named_parameters():
        count[family_of(name).parts.of(parameter)] += weight.numel()
    assert count["language"] == language
    assert count.total() == pytest.approx(total, rel=tolerance, abs=0)
    assert sum(part.total for part in count_parameters(model).values()) == count.total()
    shape = measured(model, 256)
    assert (shape.vision, shape.projector, shape.language) == tuple(
        count[n] for n in ("vision", "connector", "language")
    )
