"""Families whose vision tower sees tiles of one size, and whose connector is a module of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmsafe.models.family import Family, Features, ImageBatch, Sizes


class TiledFamily(Family):
    """Base of families whose tower sees tiles of one size, and whose connector is a module of its own."""

    def tower(self, model: Any, images: ImageBatch) -> list[Tensor]:
        return list(self.seen(model.model, images).split(images.tiles))

    def connect(self, model: Any, seen: Sequence[Tensor], sizes: Sizes) -> list[Features]:
        projected = self.project(model.model, torch.cat(list(seen))).split([len(tiles) for tiles in seen])
        return [Features(image) for image in self.joined(model.model, projected, sizes)]

    def seen(self, core: Any, images: ImageBatch) -> Tensor:
        """What the connector reads of all tiles, `[tiles, patches, width]`; `core` is the model without its head."""
        states = core.vision_tower(images.tensors["pixel_values"], output_hidden_states=True).hidden_states
        return selected(states, core.config)

    def project(self, core: Any, tiles: Tensor) -> Tensor:
        """`[tiles, patches, width]` of the tower to `[tiles, tokens, width]` of the language model."""
        projected: Tensor = core.multi_modal_projector(tiles)
        return projected

    def joined(self, core: Any, projected: Sequence[Tensor], sizes: Sizes) -> Sequence[Tensor]:
        """The tiles of each image one after the other, `[tokens, width]`."""
        return [image.flatten(0, 1) for image in projected]


def selected(states: Sequence[Tensor], config: Any) -> Tensor:
    """Layers that a LLaVA's connector reads, with or without the class token; `[tiles, patches, width]`."""
    chosen = config.vision_feature_layer
    layers = [states[layer] for layer in ([chosen] if isinstance(chosen, int) else chosen)]
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    return torch.cat([layer[:, first:] for layer in layers], dim=-1)
