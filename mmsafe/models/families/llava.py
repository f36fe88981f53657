"""LLaVA-1.5 (2310.03744): one image is so many patches of a CLIP tower, whatever its size."""

from pathlib import Path
from typing import Any

from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.pretrained import from_pretrained
from mmsafe.models.tiled_family import TiledFamily
from mmsafe.models.tiny_parts import clip, llama, tokenizer

LARGEST = 2048
"""Pixels of a side; towers of CLIP see 224 or 336."""


class Llava15(TiledFamily):
    """The reference of the paper."""

    model_types = ("llava",)
    processors = ("LlavaProcessor",)
    one_size = True
    one_mask = True

    def processor(self, folder: Path, config: Any, tokenizer: Any) -> Any:
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        return make_processor(config, tokenizer, from_pretrained(LlavaImageProcessorPil, folder))

    def square(self, images: Any, aspect: str | None) -> None:
        if aspect is not None:
            images.do_pad = aspect == "pad"

    def image_options(self, processor: Any) -> list[Any]:
        return [processor.patch_size, processor.vision_feature_select_strategy]

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


def make_processor(config: Any, tokenizer: Any, images: Any, template: str | None = None) -> Any:
    """A processor whose image-token count agrees with `config` (older checkpoints leave it one off).

    Raises `CheckpointError` where the image processor does not make what the tower sees.
    """
    from transformers import LlavaProcessor

    side, crop, size = config.vision_config.image_size, images.crop_size, dict(images.size)
    if max(side, *(value or 0 for value in size.values())) > LARGEST or (crop["height"], crop["width"]) != (side, side):
        raise CheckpointError(f"its images are scaled to {size} and cut to {dict(crop)} pixels, its tower sees {side}")
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=template,
    )
