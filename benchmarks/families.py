"""Models of every family with random weights, the same each time: `benchmarks.step --model qwen2_5_vl-mid576`.

All families have the size `tiny`. Qwen2.5-VL has those of `benchmarks.models` too: the language model is as large as
LLaVA's, and an image about as many tokens, each of them four patches to the tower.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.models import CHAT_TEMPLATE, SIZES, Sizes, make_tokenizer, texts
from mmsafe.data.example import Example
from mmsafe.models.families.qwen2_5_vl import TOKENS, config_tokens
from mmsafe.models.family import families
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.processors import UnreadVideo, images_only
from mmsafe.models.vlm import VLM, set_trained

Build = Callable[[Sequence[Example]], tuple[Any, Any]]
"""Config and processor, whose tokenizer may be trained on the texts of the data."""


def qwen(sizes: Sizes, examples: Sequence[Example]) -> tuple[Any, Any]:
    """Qwen2.5-VL in the sizes of a LLaVA; every fourth layer of the tower sees the whole image, as in the 7B model."""
    tokenizer = make_tokenizer(texts(examples), sizes.vocabulary, TOKENS)
    pixels = (2 * sizes.image) ** 2
    images = Qwen2VLImageProcessorPil(
        patch_size=sizes.patch, merge_size=2, size={"shortest_edge": pixels, "longest_edge": pixels}
    )
    half = sizes.width // sizes.heads // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]}
    config = Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": sizes.vision,
            "intermediate_size": 4 * sizes.vision,
            "depth": sizes.vision_layers,
            "num_heads": sizes.vision_heads,
            "out_hidden_size": sizes.width,
            "patch_size": sizes.patch,
            "window_size": 8 * sizes.patch,
            "fullatt_block_indexes": list(range(3, sizes.vision_layers, 4)),
        },
        text_config={
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.width,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
            **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
        },
        **config_tokens(tokenizer),
    )
    return config, images_only(Qwen2_5_VLProcessor)(images, tokenizer, UnreadVideo())


BUILD: dict[str, Build] = {
    **{f"qwen2_5_vl-{name}": partial(qwen, sizes) for name, sizes in SIZES.items()},
    **{f"{family.name}-tiny": lambda examples, family=family: family.tiny() for family in families()},  # type: ignore[misc]
}


def random_model(name: str, examples: Sequence[Example], source: CheckpointOptions) -> VLM:
    """The model of this name, with BOS and EOS in its chat template, which is what TRL's collator for images needs."""
    config, processor = BUILD[name](examples)
    processor.chat_template = CHAT_TEMPLATE.replace("<image>", processor.image_token)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return VLM(model, processor, source)  # type: ignore[arg-type]
