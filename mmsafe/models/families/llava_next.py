"""LLaVA-NeXT (1.6): an image is cut into tiles by its shape, with a learnt token at the end of each row."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmsafe.models.family import ImageInputs, Sizes
from mmsafe.models.parts import Parts
from mmsafe.models.tiled_family import TiledFamily
from mmsafe.models.tiny_parts import clip, sized, tokenizer

TINY_GRID = [[28, 56], [56, 28], [56, 56]]


class LlavaNext(TiledFamily):
    """The token at the end of a row belongs to the connector."""

    model_types = ("llava_next",)
    processors = ("LlavaNextProcessor",)
    parts: ClassVar[Parts] = Parts(
        vision=("model.vision_tower",), connector=("model.multi_modal_projector", "model.image_newline")
    )

    joining: ClassVar[tuple[str, ...]] = ("vision_feature_select_strategy",)
    """Entries of the config that the model joins tiles by."""

    def tensors(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": made["pixel_values"][0]}

    def forward_inputs(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """Tiles are padded to the most that an image has; the model takes them away by the sizes."""
        images = [image for row in rows for image in row]
        if not images:
            return {}
        tiles = pad_sequence([image.tensors["pixel_values"] for image in images], batch_first=True)
        return {"pixel_values": tiles, "image_sizes": torch.tensor([image.size for image in images])}

    def joined(self, core: Any, projected: Sequence[Tensor], sizes: Sizes) -> Sequence[Tensor]:
        """A picture put together from its tiles, without what was padding, each row with its end."""
        options = {name: getattr(core.config, name) for name in self.joining}
        joined: Sequence[Tensor] = core.pack_image_features(
            projected, sizes, image_newline=core.image_newline, **options
        )[0]
        return joined

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
