"""How images are spoilt for the `corrupted` view: `conf/corruption/`.

What becomes of an image depends on its key, the options and their seed, and on nothing else: it is the same in every
epoch, batch and process, so that log-probs computed once stay valid.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from mmsafe.core.options import Seed, Share, options
from mmsafe.data.example import Example, ImageSource, digest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor

VERSION = 1
"""Part of every key: raise it when a corruption gives other pixels, so that nothing cached from old ones is used."""

STEPS = 1000
"""Steps of the forward diffusion."""


@options
class Corruption:
    """Base of all corruptions: fields are options, and one of the hooks is filled in."""

    seed: Seed = 0

    def corrupted(self, example: Example) -> Example:
        """The same prompt beside its images, each of them corrupted."""
        return replace(example, images=tuple(CorruptedImage(image, self) for image in example.images))

    def shape(self, shape: tuple[int, int], generator: Generator) -> tuple[int, int] | None:
        """Height and width that `on_image` gives for an image of this shape; None if that has to be seen."""
        return shape if type(self).on_image is Corruption.on_image else None

    def on_image(self, image: Image, generator: Generator) -> Image:
        """Corrupt the decoded picture, before it is resized and cropped or padded for the vision tower."""
        return image

    def on_pixels(self, pixels: Tensor, patch_size: int, generator: Generator) -> Tensor:
        """Corrupt what the vision tower is given, normalised: `[3, height, width]` to the same shape."""
        return pixels


@dataclass(frozen=True)
class CorruptedImage:
    """An image source that spoils another one."""

    source: ImageSource
    corruption: Corruption

    @cached_property
    def key(self) -> str:
        """Identity of the corrupted pixels: that of the source, the kind of corruption and all its options."""
        return digest([VERSION, self.source.key, type(self.corruption).__name__, asdict(self.corruption)])

    @property
    def name(self) -> str:
        """The source's name and the kind of corruption."""
        return f"{self.source.name} ({type(self.corruption).__name__})"

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of the corrupted picture; raises the source's `UserError`."""
        return self.corruption.shape(self.source.shape, self._generator("image")) or self.load().size[::-1]

    def load(self) -> Image:
        """Decode and corrupt; raises the source's `UserError`."""
        return self.corruption.on_image(self.source.load(), self._generator("image"))

    @property
    def changes_pixels(self) -> bool:
        """Whether it works on what the vision tower is given, too."""
        return type(self.corruption).on_pixels is not Corruption.on_pixels

    def pixels(self, pixels: Tensor, patch_size: int) -> Tensor:
        """Corrupt the preprocessed picture that `load` gave; `[3, height, width]`."""
        return self.corruption.on_pixels(pixels, patch_size, self._generator("pixels"))

    def _generator(self, stage: str) -> Generator:
        import torch

        seed = digest([self.corruption.seed, self.source.key, stage])
        return torch.Generator().manual_seed(int(seed[:16], 16))


PositiveShare = Annotated[float, Field(gt=0, le=1)]


@options
class Crop(Corruption):
    """A random part of the picture in place of the whole, as in mDPO (2406.11839): too little to answer by.

    The part has the picture's aspect ratio and is resized like any other picture. Its share of the area is drawn
    uniformly.
    """

    min_share: PositiveShare = 0.01
    max_share: PositiveShare = 0.2
    """Greatest share of the area that is kept."""

    @model_validator(mode="after")
    def _in_order(self) -> Any:
        if self.min_share > self.max_share:
            raise ValueError("min_share must not be above max_share")
        return self

    def shape(self, shape: tuple[int, int], generator: Generator) -> tuple[int, int]:
        import torch

        share = self.min_share + (self.max_share - self.min_share) * torch.rand((), generator=generator).item()
        height, width = (max(1, round(math.sqrt(share) * side)) for side in shape)
        return height, width

    def on_image(self, image: Image, generator: Generator) -> Image:
        import torch

        height, width = self.shape((image.height, image.width), generator)
        left = int(torch.randint(image.width - width + 1, (), generator=generator))
        top = int(torch.randint(image.height - height + 1, (), generator=generator))
        return image.crop((left, top, left + width, top + height))


@options
class Noise(Corruption):
    """Forward diffusion to step t, as in visual contrastive decoding (VCD, 2311.16922): √ᾱ_t x + √(1 - ᾱ_t) ε.

    x are the normalised pixels, ε is N(0, 1) and ᾱ_t = Π_{s≤t} (1 - β_s) with β_s = 10⁻⁵ + (0.005 - 10⁻⁵) σ(u_s)
    for 1000 even steps u_s from -6 to 6. The noise's standard deviation is 0.005 at t = 0, 0.51 at 500 and 0.96 at 999,
    where the image still has the weight 0.29.
    """

    step: Annotated[int, Field(ge=0, lt=STEPS)] = 500
    """t, from 0 to 999; VCD's code takes 500 unless told."""

    def on_pixels(self, pixels: Tensor, patch_size: int, generator: Generator) -> Tensor:
        import torch

        betas = 1e-5 + (5e-3 - 1e-5) * torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid()
        signal = (1 - betas[: self.step + 1]).prod().item()  # ᾱ_t
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        return math.sqrt(signal) * pixels + math.sqrt(1 - signal) * noise


@options
class Mask(Corruption):
    """Random patches of the vision tower, and so places in the row of image tokens, set to the mean colour (zero)."""

    share: Share = 0.75
    """Share of the patches that are blanked, rounded to whole patches."""

    def on_pixels(self, pixels: Tensor, patch_size: int, generator: Generator) -> Tensor:
        """Blank the patches; pixels beyond the last whole patch, which the tower ignores, stay."""
        import torch

        rows, columns = pixels.shape[1] // patch_size, pixels.shape[2] // patch_size
        order = torch.randperm(rows * columns, generator=generator)
        blank = (order < round(self.share * rows * columns)).view(rows, columns)
        blank = blank.repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)
        masked = pixels.clone()
        masked[:, : rows * patch_size, : columns * patch_size].masked_fill_(blank, 0.0)
        return masked
