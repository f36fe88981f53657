"""LLaVA-1.5 (2310.03744): one image is so many patches of a CLIP tower, whatever its size."""

from __future__ import annotations

from typing import Any

from mmsafe.models.tiled_family import TiledFamily
from mmsafe.models.tiny_parts import clip, llama, tokenizer


class Llava15(TiledFamily):
    """The reference of the paper."""

    model_types = ("llava",)
    processors = ("LlavaProcessor",)
    one_size = True

    def tiny(self) -> tuple[Any, Any]:
        from transformers import LlavaConfig, LlavaProcessor
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        words = tokenizer({"image_token": "<image>"})
        images = LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        config = LlavaConfig(
            vision_config=clip(),
            text_config=llama(words),
            image_token_index=words.image_token_id,
            image_seq_length=16,
            vision_feature_layer=-2,
        )
        processor = LlavaProcessor(
            images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
        return config, processor
