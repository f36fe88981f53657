"""LLaVA's image path in two halves: the tower, which is usually frozen, and the projector, which is usually trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from mmsafe.scoring.collate import Batch
    from mmsafe.scoring.features import FeatureCache


def tower_is_frozen(model: Any) -> bool:
    """Whether no parameter of the vision tower takes a gradient."""
    return not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())


def tower_features(model: Any, pixels: Tensor) -> Tensor:
    """What the projector reads of `[images, 3, height, width]`: `[images, patches, width]`; no graph if frozen."""
    config = model.config
    with torch.set_grad_enabled(torch.is_grad_enabled() and not tower_is_frozen(model)):
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        chosen = config.vision_feature_layer
        layers = [states[layer] for layer in ([chosen] if isinstance(chosen, int) else chosen)]
        first = 1 if config.vision_feature_select_strategy == "default" else 0  # the class token
        return torch.cat([layer[:, first:] for layer in layers], dim=-1)


def with_features(model: Any, batch: Batch, cache: FeatureCache | None = None) -> Batch:
    """The batch with its images already seen by the frozen tower, once for policy and reference; fills the cache.

    A tower that is trained is left to each model's own forward pass.
    """
    if batch.pixel_values is None or not tower_is_frozen(model):
        return batch
    fresh = tower_features(model, batch.pixel_values)
    if cache is not None:
        for key, features in zip(batch.image_keys, fresh, strict=True):
            cache.put(key, features)
    known = batch.features
    features = fresh if known is None else torch.cat([known.to(fresh.dtype), fresh])
    return replace(batch, features=features, pixel_values=None, image_keys=())


def image_embeddings(model: Any, batch: Batch) -> dict[str, Any] | None:
    """Projected features of each line's image, as LLaVA takes them in place of pixels; None without images."""
    parts = [] if batch.features is None else [batch.features]
    if batch.pixel_values is not None:
        parts.append(tower_features(model, batch.pixel_values))
    if not parts:
        return None
    projected = model.model.multi_modal_projector(torch.cat(parts)).unbind(0)
    shown: Any = [projected[index] for index in batch.image_index.tolist()]
    return {"image": BaseModelOutputWithPooling(pooler_output=shown)}
