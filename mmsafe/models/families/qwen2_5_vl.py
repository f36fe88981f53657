"""Qwen2.5-VL (2502.13923): images in their own size, and positions on three axes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmsafe.models.family import Family, Features, ImageBatch, ImageInputs, Sizes
from mmsafe.models.parts import Parts
from mmsafe.models.processors import UnreadVideo, images_only
from mmsafe.models.tiny_parts import sized, tokenizer

TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 8,
}
"""Sizes of a tiny tower."""


def config_tokens(words: Any) -> dict[str, Any]:
    """The ids of Qwen's own tokens, as its config names them."""
    return {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in TOKENS.items()}


def tiny_processor(kind: type) -> Any:
    """A processor of Qwen's for patches of 8 pixels, two to a side of a token."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": 256, "longest_edge": 4096}
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=size)
    return images_only(kind)(images, tokenizer(TOKENS), UnreadVideo())


class Qwen25(Family):
    """The merger, which makes one token of four patches, is the connector."""

    model_types = ("qwen2_5_vl",)
    processors = ("Qwen2_5_VLProcessor",)
    parts: ClassVar[Parts] = Parts(vision=("model.visual",), connector=("model.visual.merger",))
    token_types = "mm_token_type_ids"
    largest: ClassVar[int] = 1 << 26  # pixels of a whole image
    tower_parts = ("vision", "connector")
    merge: ClassVar[int] = 2
    """Patches that become one token, along a side."""

    def tensors(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: made[name] for name in ("pixel_values", "image_grid_thw")}

    def tower(self, model: Any, images: ImageBatch) -> list[Tensor]:
        """With the connector, which is a part of the tower's module: `[1 + levels of DeepStack, tokens, width]`."""
        made = model.model.get_image_features(**images.tensors, return_dict=True)
        levels = [made.pooler_output, *getattr(made, "deepstack_features", ())]
        return [torch.stack(image) for image in zip(*levels, strict=True)]

    def connect(self, model: Any, seen: Sequence[Tensor], sizes: Sizes) -> list[Features]:
        return [Features(image[0], tuple(image[1:])) for image in seen]

    def positions(self, ids: Sequence[int], image_token: int, images: Sequence[ImageInputs]) -> list[list[int]]:
        """As `get_rope_index` of the model, for images: a word steps on all axes, an image spans its grid."""
        grids = iter(images)
        columns: list[Tensor] = []
        cells = torch.tensor([1, self.merge, self.merge])
        start = at = 0
        while at < len(ids):
            if ids[at] != image_token:
                columns.append(torch.full((3, 1), start))
                start, at = start + 1, at + 1
                continue
            time, height, width = (next(grids).tensors["image_grid_thw"][0] // cells).tolist()
            columns.append(torch.cartesian_prod(*map(torch.arange, (time, height, width))).reshape(-1, 3).T + start)
            start, at = start + max(height, width), at + time * height * width
        positions: list[list[int]] = torch.cat(columns, dim=1).tolist()
        return positions

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor

        processor = tiny_processor(Qwen2_5_VLProcessor)
        rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
        config = Qwen2_5_VLConfig(
            vision_config={**TOWER, "depth": 2, "window_size": 32, "fullatt_block_indexes": [1]},
            text_config={**sized(processor.tokenizer), "rope_parameters": rope},
            **config_tokens(processor.tokenizer),
        )
        return config, processor
