"""Sizes of the tiny model, and the recipe that it is pre-trained by."""

from pkgutil import iter_modules
from typing import Annotated, Literal

from pydantic import AfterValidator

from mmsafe.core.options import Count, Positive, Seed, options
from mmsafe.models import families
from mmsafe.models.model_options import ModelOptions

VISION_HEADS = 4
Prior = Literal["cue", "uniform", "harmless"]


def _known(name: str | None) -> str | None:
    known = sorted(entry.name for entry in iter_modules(families.__path__))
    if name is not None and name not in known:
        raise ValueError(f"no such family; known are {', '.join(known)}")
    return name


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
class PretrainingStage:
    """One stage of pre-training."""

    examples: Count
    epochs: Count
    batch_size: Count
    lr: Positive


@options
class Pretraining:
    """The tower learns to see, as CLIP did; then, with it frozen, SFT on chat, as LLaVA was made."""

    tower: PretrainingStage = PretrainingStage(examples=8000, epochs=8, batch_size=64, lr=1.5e-3)
    chat: PretrainingStage = PretrainingStage(examples=8000, epochs=3, batch_size=64, lr=2e-3)
    prior: Prior = "cue"


@options
class TinyOptions(ModelOptions):
    """What a tiny model is made of."""

    seed: Seed = 0
    architecture: Architecture = Architecture()
    pretraining: Pretraining | None = Pretraining()
    family: Annotated[str | None, AfterValidator(_known)] = None
    """With random weights: a tiny model of this family, of a size of its own; null: the LLaVA of these sizes."""

    def __post_init__(self) -> None:
        if self.family is not None and self.pretraining is not None:
            raise ValueError("family: only the LLaVA of the micro-world is pre-trained; use model=random")
