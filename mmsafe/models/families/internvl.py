"""InternVL (2504.10479): an image is cut into tiles by its shape; each is so many tokens."""

from typing import Any, ClassVar

from torch import Tensor

from mmsafe.models.family import ImageBatch
from mmsafe.models.processors import UnreadVideo, images_only
from mmsafe.models.tiled_family import TiledFamily, selected
from mmsafe.models.tiny_parts import VISION, sized, tokenizer

TOKENS = {
    "context_image_token": "<IMG_CONTEXT>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}


class InternVL(TiledFamily):
    """Versions 2.5 to 3.5 in the layout of `transformers`."""

    model_types = ("internvl",)
    processors = ("InternVLProcessor",)
    one_tensor: ClassVar[bool] = True
    one_mask: ClassVar[bool] = True

    def seen(self, core: Any, images: ImageBatch) -> Tensor:
        config, pixels = core.config, images.tensors["pixel_values"].to(core.dtype)
        states = core.vision_tower(pixel_values=pixels, output_hidden_states=config.vision_feature_layer != -1)
        if config.vision_feature_layer != -1:
            return selected(states.hidden_states, config)
        return selected([states.last_hidden_state], config)

    def project(self, core: Any, tiles: Tensor) -> Tensor:
        side = round(tiles.shape[1] ** 0.5)
        shuffled = core.pixel_shuffle(tiles.unflatten(1, (side, side)), scale_factor=core.config.downsample_ratio)
        return core.multi_modal_projector(shuffled.flatten(1, 2))  # type: ignore[no-any-return]

    def tiny(self) -> tuple[Any, Any]:
        from transformers import InternVLConfig, InternVLProcessor, Qwen2Config
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        words = tokenizer(TOKENS, image="context_image_token")
        images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4)
        config = InternVLConfig(
            vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
            text_config=Qwen2Config(**sized(words)),
            image_token_id=words.context_image_token_id,
            image_seq_length=4,
        )
        return config, images_only(InternVLProcessor)(images, words, UnreadVideo(), image_seq_length=4)
