"""The images of a batch, and what the frozen vision tower made of them, kept for later epochs: `conf/vision_cache/`."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from mmsafe.core.cache import cache_dir
from mmsafe.core.tensor_file import load_file, save_file
from mmsafe.data.example import ImageSource, digest

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmsafe.core.settings import VisionCache
    from mmsafe.models.encoding import Encoder
    from mmsafe.models.llava import Llava

log = logging.getLogger(__name__)
GIB = 1 << 30


class FeatureCache(ABC):
    """Features by image key. Nothing is evicted: an epoch reads every image once, so that would only lose hits.

    Data workers are forked at the start of an epoch and see what was there then.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0

    @abstractmethod
    def get(self, key: str) -> Tensor | None:
        """Features of an image, `[patches, width]` on the CPU, or None."""

    def put(self, key: str, features: Tensor) -> None:
        """Keep the features of an image while there is room; a worker may not have known of one that is there."""
        if self.get(key) is not None:
            return
        size = features.numel() * features.element_size()
        if self.size + size > self.limit:
            if self.size <= self.limit:  # say so once
                log.warning("vision_cache: full at %.1f GiB; other images go through the tower again", self.limit / GIB)
                self.limit = -1
            return
        self.size += size
        self._keep(key, features.detach().cpu())

    @abstractmethod
    def _keep(self, key: str, features: Tensor) -> None: ...


class MemoryFeatures(FeatureCache):
    """Features in the memory of this process, until it ends."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._features: dict[str, Tensor] = {}

    def get(self, key: str) -> Tensor | None:
        """Features of an image, or None."""
        return self._features.get(key)

    def _keep(self, key: str, features: Tensor) -> None:
        self._features[key] = features.clone()


class DiskFeatures(FeatureCache):
    """One safetensors file per image, for every later run with the same tower."""

    def __init__(self, folder: Path, limit: int) -> None:
        super().__init__(limit)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.size = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(".safetensors"))

    def get(self, key: str) -> Tensor | None:
        """Features of an image, or None; raises `UserError` if the file is damaged."""
        path = self._path(key)
        return load_file(path)[0]["features"] if path.exists() else None

    def _keep(self, key: str, features: Tensor) -> None:
        path = self._path(key)
        try:
            save_file({"features": features}, path, {})
        except (OSError, SafetensorError) as error:
            self.limit = -1
            log.warning("vision_cache: nothing more is kept, %s cannot be written: %s", path, error)

    def _path(self, key: str) -> Path:
        return self.folder / f"{digest(key)}.safetensors"


def feature_cache(options: VisionCache, llava: Llava, precision: str) -> FeatureCache | None:
    """The cache that `options` ask for; `precision` is the arithmetic of the forward pass."""
    limit = int(options.max_gib * GIB)
    if options.store == "none":
        return None
    if options.store == "memory":
        return MemoryFeatures(limit)
    return DiskFeatures(cache_dir("features") / features_key(llava, precision), limit)


def features_key(llava: Llava, precision: str) -> str:
    """Hash of all but the image that features depend on: tower, layer, image processor, arithmetic, libraries."""
    from mmsafe.models.llava import weights_hash

    config = llava.model.config
    tower = llava.model.model.vision_tower
    layer = [config.vision_feature_layer, config.vision_feature_select_strategy]
    how = [precision, llava.model.device.type, torch.__version__, transformers.__version__]
    seen = llava.processor.image_processor.to_dict()
    return digest([weights_hash(tower), tower.config.to_dict(), *layer, seen, *how])


@dataclass(frozen=True)
class BlankImage:
    """A black square."""

    size: int

    @property
    def key(self) -> str:
        """The same key for all blank images of this size."""
        return f"blank {self.size}"

    name = key

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
