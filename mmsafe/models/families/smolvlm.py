"""SmolVLM and Idefics 3 (2408.12637): an image is cut into tiles, which the prompt names by row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn.functional import pad

from mmsafe.models.family import Family, ImageInputs, Parts, images_only
from mmsafe.models.tiny_parts import VISION, llama, tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}


class SmolVLM(Family):
    """An image is a row of the model's batch of tiles; rows of fewer tiles are padded with black ones."""

    model_types = ("smolvlm", "idefics3")
    parts: ClassVar[Parts] = Parts(
        vision=("model.vision_model",), connector=("model.connector",), language=("model.text_model", "lm_head")
    )
    kept = ("pixel_values", "pixel_attention_mask")

    def image_inputs(self, processor: Any, images: Sequence[Image]) -> list[ImageInputs]:
        alone = [
            processor.image_processor(images=[image], return_tensors="pt", return_row_col_info=True) for image in images
        ]
        return [ImageInputs(processor.replace_image_token(made, 0), self._tensors(made)) for made in alone]

    def image_batch(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        most = max(image["pixel_values"].shape[1] for image in images)
        padded = []
        for image in images:
            pixels, mask = image["pixel_values"], image["pixel_attention_mask"]
            lacking = most - pixels.shape[1]
            padded.append(
                {
                    "pixel_values": pad(pixels, (0,) * 7 + (lacking,)),
                    "pixel_attention_mask": pad(mask, (0,) * 5 + (lacking,)),
                }
            )
        return super().image_batch(padded)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import SmolVLMConfig, SmolVLMProcessor
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
        words = tokenizer(TOKENS, "<end_of_utterance>", *places)
        images = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
        config = SmolVLMConfig(
            vision_config={**VISION, "image_size": 32, "patch_size": 8},
            text_config=llama(words),
            image_token_id=words.image_token_id,
            scale_factor=2,
        )
        return config, images_only(SmolVLMProcessor)(images, words, None, image_seq_len=4)
