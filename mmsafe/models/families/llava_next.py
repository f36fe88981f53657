"""LLaVA-NeXT (1.6): an image is cut into tiles by its shape, with a learnt token at the end of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmsafe.models.family import Family, Parts
from mmsafe.models.tiny_parts import clip, sized, tokenizer

TINY_GRID = [[28, 56], [56, 28], [56, 56]]


class LlavaNext(Family):
    """Tiles are padded to the most that an image of the batch has; the model takes them away by `image_sizes`."""

    model_types = ("llava_next",)
    parts: ClassVar[Parts] = Parts(
        vision=("model.vision_tower",), connector=("model.multi_modal_projector", "model.image_newline")
    )
    kept = ("pixel_values", "image_sizes")

    def image_batch(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        most = max(image["pixel_values"].shape[1] for image in images)
        tiles = [pad(image["pixel_values"], (0,) * 7 + (most - image["pixel_values"].shape[1],)) for image in images]
        return {**super().image_batch([{**i, "pixel_values": t} for i, t in zip(images, tiles, strict=True)])}

    def tiny(self) -> tuple[Any, Any]:
        from transformers import LlavaNextConfig, LlavaNextProcessor, MistralConfig
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        words = tokenizer({"image_token": "<image>"})
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=TINY_GRID
        )
        config = LlavaNextConfig(
            vision_config=clip(),
            text_config=MistralConfig(**sized(words), sliding_window=None),
            image_token_index=words.image_token_id,
            image_grid_pinpoints=TINY_GRID,
        )
        processor = LlavaNextProcessor(
            images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
        return config, processor
