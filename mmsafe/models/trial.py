"""Tries what was read of a checkpoint on a question, so that what does not fit is told before work is lost."""

from __future__ import annotations

from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.encoding import Encoder
from mmsafe.models.rendering import rendered

LARGEST = 2048
"""Pixels of a side; towers of CLIP see 224 or 336."""


def check_processor(processor: Any, config: Any) -> None:
    """Raise `CheckpointError` where tokens, images or the chat template do not fit the model of `config`."""
    tokenizer, vocabulary = processor.tokenizer, config.text_config.vocab_size
    if len(tokenizer) > vocabulary:
        raise CheckpointError(f"its tokenizer has {len(tokenizer)} tokens, config.json says {vocabulary}")
    if processor.image_token_id != config.image_token_index:
        raise CheckpointError(
            f"'{processor.image_token}' is token {processor.image_token_id} of its tokenizer, config.json says "
            f"{config.image_token_index}"
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError("its tokenizer has no token that ends a response")
    side, images = config.vision_config.image_size, processor.image_processor
    crop, size = images.crop_size, dict(images.size)
    if max(side, *(value or 0 for value in size.values())) > LARGEST or (crop["height"], crop["width"]) != (side, side):
        raise CheckpointError(f"its images are scaled to {size} and cut to {dict(crop)} pixels, its tower sees {side}")
    encoder = Encoder(processor)
    if encoder.image_tokens < 1:
        raise CheckpointError(f"its tower makes {encoder.image_tokens} tokens of an image")
    try:
        rendered(processor, [{"role": "user", "content": [{"type": "text", "text": "?"}]}], add_generation_prompt=True)
    except UserError as error:
        raise CheckpointError(f"{error}; or set model.chat_template") from error
