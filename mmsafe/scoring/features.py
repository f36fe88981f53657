"""The images of a batch, and what the frozen vision tower made of them, kept for later epochs: `conf/vision_cache/`."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from mmsafe.core.cache import cache_dir
from mmsafe.core.errors import UserError
from mmsafe.core.settings import VisionCache
from mmsafe.core.tensor_file import load_file, save_file
from mmsafe.data.example import ImageSource, digest
from mmsafe.models.encoding import Encoder
from mmsafe.models.family import ImageBatch, ImageInputs, family_of
from mmsafe.models.vlm import VLM, weights_hash

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


def feature_cache(options: VisionCache, vlm: VLM, precision: str) -> FeatureCache | None:
    """The cache that `options` ask for; `precision` is the arithmetic of the forward pass.

    Raises `UserError` where the connector is trained and is a part of what would be kept.
    """
    limit = int(options.max_gib * GIB)
    if options.store == "none":
        return None
    tower_parts = family_of(vlm.model.config.model_type).tower_parts
    if "connector" in tower_parts and vlm.source.train.projector:
        raise UserError(
            "vision_cache: in this model the connector is a part of the tower, and is trained; choose "
            "vision_cache=none, or model.train.projector=false"
        )
    if options.store == "memory":
        return MemoryFeatures(limit)
    return DiskFeatures(cache_dir("features") / features_key(vlm, precision), limit)


def features_key(vlm: VLM, precision: str) -> str:
    """Hash of all but the image that features depend on: tower, layer, image processor, arithmetic, libraries."""
    model = vlm.model
    towers = family_of(model.config.model_type).towers(model)
    config: Any = model.config
    return digest(
        [
            [weights_hash(tower) for tower in towers],
            config.vision_config.to_dict(),
            getattr(config, "vision_feature_layer", None),
            getattr(config, "vision_feature_select_strategy", None),
            vlm.processor.image_processor.to_dict(),
            precision,
            model.device.type,
            torch.__version__,
            transformers.__version__,
        ]
    )


@dataclass(frozen=True)
class BlankImage:
    """A black square."""

    size: int

    @property
    def key(self) -> str:
        """The same key for all blank images of this size."""
        return f"blank {self.size}"

    name = key

    @property
    def shape(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    def load(self) -> Image.Image:
        """Make the image; there is nothing to decode."""
        return Image.new("RGB", (self.size, self.size))


@dataclass(frozen=True)
class BatchImages:
    """The distinct images of a batch: first those whose features were kept, then those the tower has yet to see."""

    shown: tuple[int, ...]
    """Which image each stretch of placeholders stands for, line by line."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width in pixels, where the connector wants to know them."""
    kept: tuple[Tensor, ...] = ()
    """What the frozen tower made of the first ones."""
    new: ImageBatch | None = None
    keys: tuple[str, ...] = ()
    """Identity of the `new` ones, where a cache of features wants to know it."""

    def each(self, change: Callable[[Tensor], Tensor]) -> BatchImages:
        """The same with every tensor changed."""
        new = self.new
        if new is not None:
            new = replace(new, tensors={name: change(value) for name, value in new.tensors.items()})
        return replace(self, kept=tuple(map(change, self.kept)), new=new)


class Images:
    """Collects the distinct images of a batch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._place: dict[tuple[ImageSource, bool], int] = {}
        self._beside: list[list[ImageSource]] = []
        self._lines: list[list[int]] = []

    def add(self, images: Sequence[ImageSource]) -> None:
        """The images of the next line."""
        together, line = self._encoder.family.together(len(images)), list[int]()
        for image in images:
            place = self._place.setdefault((image, together), len(self._place))
            if place == len(self._beside):
                self._beside.append([image] * (len(images) if together else 1))
            line.append(place)
        self._lines.append(line)

    def __bool__(self) -> bool:
        return bool(self._place)

    def rows(self) -> list[list[ImageInputs]]:
        """The inputs of every line, each distinct image processed once."""
        inputs = [self._inputs(place) for place in range(len(self._beside))]
        return [[inputs[place] for place in line] for line in self._lines]

    def of_batch(self, cache: FeatureCache | None = None) -> BatchImages | None:
        """The images for a batch; those whose features are in the cache are not decoded."""
        if not self._place:
            return None
        keys = [f"{image.key}{' together' * together}" for image, together in self._place]
        cached = [None if cache is None else cache.get(key) for key in keys]
        known = {i: features for i, features in enumerate(cached) if features is not None}
        unseen = [i for i in range(len(keys)) if i not in known]
        order = [*known, *unseen]
        place = {index: number for number, index in enumerate(order)}
        made = {i: self._inputs(i) for i in unseen}
        needs_size = not self._encoder.family.one_size
        sizes = [made[i].size if i in made else self._beside[i][0].shape for i in order if needs_size]
        return BatchImages(
            tuple(place[index] for line in self._lines for index in line),
            tuple(sizes),
            tuple(known.values()),
            ImageBatch.of(list(made.values())) if made else None,
            () if cache is None else tuple(keys[i] for i in unseen),
        )

    def _inputs(self, place: int) -> ImageInputs:
        return self._encoder.image_inputs(self._beside[place])[0]
