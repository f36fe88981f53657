"""SmolVLM and Idefics 3 (2408.12637): an image is cut into tiles, which the prompt names by row and column."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmsafe.models.family import ImageBatch, ImageInputs
from mmsafe.models.parts import Parts
from mmsafe.models.processors import UnreadVideo, images_only
from mmsafe.models.tiled_family import TiledFamily
from mmsafe.models.tiny_parts import VISION, llama, tokenizer

TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}


class SmolVLM(TiledFamily):
    """The parts of it have names of their own."""

    model_types = ("smolvlm", "idefics3")
    processors = ("SmolVLMProcessor", "Idefics3Processor")
    parts: ClassVar[Parts] = Parts(
        vision=("model.vision_model",), connector=("model.connector",), language=("model.text_model", "lm_head")
    )

    def tensors(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: made[name][0] for name in ("pixel_values", "pixel_attention_mask")}

    def forward_inputs(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """A row of tiles for each prompt with images, padded with black ones."""
        shown = [[image.tensors for image in row] for row in rows if row]
        names = shown[0][0] if shown else ()
        return {
            name: pad_sequence([torch.cat([image[name] for image in row]) for row in shown], batch_first=True)
            for name in names
        }

    def seen(self, core: Any, images: ImageBatch) -> Tensor:
        side = core.config.vision_config.patch_size
        mask = images.tensors["pixel_attention_mask"].bool().unfold(1, side, side).unfold(2, side, side).any(-1).any(-1)
        states = core.vision_model(images.tensors["pixel_values"].to(core.dtype), patch_attention_mask=mask)
        return states.last_hidden_state  # type: ignore[no-any-return]

    def project(self, core: Any, tiles: Tensor) -> Tensor:
        return core.connector(tiles)  # type: ignore[no-any-return]

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
        return config, images_only(SmolVLMProcessor)(images, words, UnreadVideo(), image_seq_len=4)
