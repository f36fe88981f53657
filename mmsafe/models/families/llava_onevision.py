"""LLaVA-OneVision (2408.03326): a single image is cut into tiles as in LLaVA-NeXT, several are one tile each."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from mmsafe.models.families.llava_next import LlavaNext
from mmsafe.models.family import ImageInputs
from mmsafe.models.processors import UnreadVideo, images_only
from mmsafe.models.tiny_parts import VISION, sized, tokenizer

TINY_GRID = [[28, 28], [28, 56], [56, 28], [56, 56]]


class LlavaOneVision(LlavaNext):
    """SigLIP and Qwen2."""

    model_types = ("llava_onevision",)
    processors = ("LlavaOnevisionProcessor",)
    joining = ("vision_aspect_ratio",)

    def image_inputs(self, processor: Any, images: Sequence[Image]) -> list[ImageInputs]:
        made = processor.image_processor(images=[list(images)], return_tensors="pt")
        tiles = slice(None) if len(images) == 1 else slice(1)
        return [
            ImageInputs(
                processor.replace_image_token(made, i),
                {"pixel_values": made["pixel_values"][i, tiles]},
                image.size[::-1],
            )
            for i, image in enumerate(images)
        ]

    def forward_inputs(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        numbers = torch.tensor([len(row) for row in rows if row])
        inputs = super().forward_inputs(rows)
        return inputs | ({"batch_num_images": numbers} if inputs else {})

    def together(self, count: int) -> bool:
        return count > 1

    def tiny(self) -> tuple[Any, Any]:
        from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor, Qwen2Config, SiglipVisionConfig
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil,
        )

        words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
        images = LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=TINY_GRID)
        config = LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**VISION, image_size=28, patch_size=7),
            text_config=Qwen2Config(**sized(words)),
            image_token_index=words.image_token_id,
            video_token_index=words.video_token_id,
            image_grid_pinpoints=TINY_GRID,
            vision_feature_layer=-1,
        )
        processor = images_only(LlavaOnevisionProcessor)(
            images, words, UnreadVideo(), num_image_tokens=16, vision_feature_select_strategy="full"
        )
        return config, processor
