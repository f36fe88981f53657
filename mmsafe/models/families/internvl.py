"""InternVL (2504.10479): an image is cut into tiles by its shape; each is so many tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from mmsafe.models.family import Family, images_only
from mmsafe.models.tiny_parts import VISION, sized, tokenizer

TOKENS = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}


class InternVL(Family):
    """Versions 2.5 to 3.5 in the layout of `transformers`."""

    model_types = ("internvl",)
    one_tensor: ClassVar[bool] = True

    def tiny(self) -> tuple[Any, Any]:
        from transformers import InternVLConfig, InternVLProcessor, Qwen2Config
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        words = tokenizer(TOKENS, image="context_image_token")
        images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
        config = InternVLConfig(
            vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
            text_config=Qwen2Config(**sized(words)),
            image_token_id=words.context_image_token_id,
            image_seq_length=4,
        )
        return config, images_only(InternVLProcessor)(images, words, None, image_seq_length=4)
