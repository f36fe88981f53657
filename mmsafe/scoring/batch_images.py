"""The distinct images of a batch, each decoded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmsafe.data.example import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsafe.models.encoding import Encoder
    from mmsafe.scoring.features import FeatureCache


@dataclass(frozen=True)
class BlankImage:
    """A black square."""

    size: int

    @property
    def key(self) -> str:
        """The same key for all blank images of this size."""
        return f"blank {self.size}"

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.key

    def load(self) -> Image:
        """Make the image; there is nothing to decode."""
        from PIL import Image

        return Image.new("RGB", (self.size, self.size))


class Images:
    """Collects the distinct images of a batch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._position: dict[ImageSource, int] = {}
        self._shown: list[int] = []

    def add(self, image: ImageSource | None) -> None:
        """The image of the next line, if it has one."""
        if image is not None:
            self._shown.append(self._position.setdefault(image, len(self._position)))

    def __bool__(self) -> bool:
        return bool(self._position)

    def fields(self, cache: FeatureCache | None = None) -> dict[str, Any]:
        """The batch's fields about images; those whose features are in the cache are not decoded."""
        images = list(self._position)
        cached = [None if cache is None else cache.get(image.key) for image in images]
        known = {i: features for i, features in enumerate(cached) if features is not None}
        new = [i for i in range(len(images)) if i not in known]
        place = {index: new_place for new_place, index in enumerate([*known, *new])}
        return {
            "image_index": torch.tensor([place[index] for index in self._shown], dtype=torch.long),
            "features": torch.stack(list(known.values())) if known else None,
            "pixel_values": torch.stack([self._encoder.pixels(images[i]) for i in new]) if new else None,
            "image_keys": () if cache is None else tuple(images[i].key for i in new),
        }
