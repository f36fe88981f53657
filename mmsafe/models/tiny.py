"""`model=tiny`: a real LLaVA of about a million parameters, taught the micro-world when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsafe.models.source import ModelSource
from mmsafe.options import Count, Positive, Seed, options

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder
    from mmsafe.models.llava import Llava


VISION_HEADS = 4


@options
class Architecture:
    """Sizes of the CLIP tower and the Llama; widths in units, images in pixels."""

    image_size: Count = 64
    patch_size: Count = 16
    vision_width: Count = 96
    vision_layers: Count = 3
    width: Count = 128
    layers: Count = 3
    heads: Count = 4
    vocabulary: Count = 1024

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 2 or self.vision_width % VISION_HEADS:
            raise ValueError(f"width must be an even multiple of heads, vision_width a multiple of {VISION_HEADS}")
        if self.image_size % self.patch_size:
            raise ValueError("image_size must be a multiple of patch_size")


@options
class Stage:
    """One stage of pre-training."""

    examples: Count
    epochs: Count
    batch_size: Count
    lr: Positive


@options
class Pretraining:
    """The tower learns to see, as CLIP did; then, with it frozen, SFT on chat, as LLaVA was made."""

    tower: Stage = Stage(examples=8000, epochs=8, batch_size=64, lr=1.5e-3)
    chat: Stage = Stage(examples=8000, epochs=3, batch_size=64, lr=2e-3)


@options
class TinyModel(ModelSource):
    """A tiny LLaVA, built and pre-trained by code, cached under a key of everything that it is made from."""

    seed: Seed = 0
    """Of the initial weights and of the pre-training data."""
    architecture: Architecture = Architecture()
    pretraining: Pretraining | None = Pretraining()
    """null: random weights, for checking that things run."""

    def load(self) -> Llava:
        """From the cache, or built now with a progress bar."""
        from mmsafe.models.tiny_build import load_tiny

        return load_tiny(self)

    def encoder(self) -> Encoder:
        """Of the model before it is pre-trained, which changes nothing about tokens."""
        from mmsafe.models.tiny_build import build

        return build(self).encoder()
