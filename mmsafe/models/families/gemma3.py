"""Gemma 3 (2503.19786): the tokens of an image see each other both ways, and most layers see a window only."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import pad

from mmsafe.models.family import ImageBatch, Mask
from mmsafe.models.tiled_family import TiledFamily
from mmsafe.models.tiny_parts import VISION, sized, tokenizer

TOKENS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


class Gemma3(TiledFamily):
    """The placeholder in a prompt is another token than the one that features take the place of."""

    model_types = ("gemma3",)
    processors = ("Gemma3Processor",)
    token_types = "token_type_ids"
    one_tensor: ClassVar[bool] = True
    one_mask: ClassVar[bool] = True

    def image_token(self, processor: Any) -> int:
        return int(processor.tokenizer.image_token_id)

    def seen(self, core: Any, images: ImageBatch) -> Tensor:
        return core.vision_tower(pixel_values=images.tensors["pixel_values"]).last_hidden_state  # type: ignore[no-any-return]

    def masks(self, model: Any, allowed: Mask, order: Tensor, ids: Tensor) -> dict[str, Mask]:
        placeholder = ids == self.placeholder(model.config)
        begins = placeholder & ~pad(placeholder, (1, 0))[:, :-1]
        image = begins.cumsum(1) * placeholder  # 0 outside of images

        def seen(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (image[line, query] == image[line, key]) & (image[line, query] > 0)
            return allowed(line, head, query, key) | same

        return super().masks(model, seen, order, ids)

    def tiny(self) -> tuple[Any, Any]:
        from transformers import Gemma3Config, Gemma3Processor
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        words = tokenizer(TOKENS, image="boi_token")
        images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
        sizes = {**sized(words), "head_dim": 16, "sliding_window": 24}
        config = Gemma3Config(
            vision_config={**VISION, "image_size": 32, "patch_size": 8},
            text_config={**sizes, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
            image_token_index=words.image_token_id,
            boi_token_index=words.boi_token_id,
            eoi_token_index=words.eoi_token_id,
            mm_tokens_per_image=4,
        )
        return config, Gemma3Processor(images, words, image_seq_length=4)
