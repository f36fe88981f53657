"""LLaVA-OneVision (2408.03326): a single image is cut into tiles as in LLaVA-NeXT, several are one tile each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmsafe.models.families.llava_next import LlavaNext
from mmsafe.models.family import Features, ImageInputs, images_only
from mmsafe.models.tiny_parts import VISION, sized, tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

TINY_GRID = [[28, 28], [28, 56], [56, 28], [56, 56]]


class LlavaOneVision(LlavaNext):
    """SigLIP and Qwen2."""

    model_types = ("llava_onevision",)
    kept = ("pixel_values", "image_sizes")

    def image_inputs(self, processor: Any, images: Sequence[Image]) -> list[ImageInputs]:
        made = processor.image_processor(images=[list(images)], return_tensors="pt")
        tiled = torch.tensor([len(images) == 1])
        return [
            ImageInputs(
                processor.replace_image_token(made, i),
                {**{name: made[name][i : i + 1] for name in self.kept}, "tiled": tiled},
            )
            for i in range(len(images))
        ]

    def features(self, model: Any, images: Mapping[str, Tensor], counts: Sequence[int]) -> list[Features]:
        """The model is told of tiles by the number of images of a prompt, and takes one alone for tiled.

        So those of one tile go first, as the images of one prompt; if there is one, it goes twice.
        """
        tiled = images["tiled"].tolist()
        plain = [i for i, cut in enumerate(tiled) if not cut]
        doubled = plain * 2 if len(plain) == 1 else plain
        order = [*doubled, *(i for i, cut in enumerate(tiled) if cut)]
        numbers = [len(doubled)] * bool(doubled) + [1] * sum(tiled)
        chosen = {name: images[name][order] for name in self.kept} | {"batch_num_images": torch.tensor(numbers)}
        made = super().features(model, chosen, [counts[i] for i in order])
        return [made[order.index(i)] for i in range(len(tiled))]

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
            images, words, None, num_image_tokens=16, vision_feature_select_strategy="full"
        )
        return config, processor
