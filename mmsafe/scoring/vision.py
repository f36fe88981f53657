"""The image path in two halves: the tower, which is usually frozen, and the connector, which is usually trained."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmsafe.models.family import ImageBatch, family_of
from mmsafe.scoring.collate import Batch
from mmsafe.scoring.features import FeatureCache


def tower_is_frozen(model: Any) -> bool:
    """Whether no parameter of what sees the images takes a gradient."""
    towers = family_of(model.config.model_type).towers(model)
    return not any(parameter.requires_grad for tower in towers for parameter in tower.parameters())


def tower_features(model: Any, images: ImageBatch) -> list[Tensor]:
    """What the tower makes of each image; no graph if it is frozen."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not tower_is_frozen(model)):
        return family_of(model.config.model_type).tower(model, images)


def with_features(model: Any, batch: Batch, cache: FeatureCache | None = None) -> Batch:
    """The batch with its images already seen by the frozen tower, once for policy and reference; fills the cache.

    A tower that is trained is left to each model's own forward pass.
    """
    images = batch.images
    if images is None or images.new is None or not tower_is_frozen(model):
        return batch
    fresh = tower_features(model, images.new)
    if cache is not None:
        for key, features in zip(images.keys, fresh, strict=True):
            cache.put(key, features)
    kept = (*(features.to(fresh[0].dtype) for features in images.kept), *fresh)
    return replace(batch, images=replace(images, kept=kept, new=None, keys=()))


def image_embeddings(model: Any, batch: Batch) -> dict[str, Any] | None:
    """Features of the images in the order of their placeholders, as the model takes them; None without images."""
    images, family = batch.images, family_of(model.config.model_type)
    if images is None:
        return None
    seen = [*images.kept, *(() if images.new is None else tower_features(model, images.new))]
    features = family.connect(model, seen, images.sizes)
    return family.encoder_outputs([features[place] for place in images.shown])
