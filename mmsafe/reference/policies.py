"""References that are models: a frozen copy, or the policy without its adapter."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmsafe.core.errors import UserError
from mmsafe.models.family import family_of
from mmsafe.models.vlm import VLM
from mmsafe.scoring.collate import Batch, Collator, Item, Items
from mmsafe.scoring.token_batches import batches_of
from mmsafe.scoring.vision import tower_is_frozen
from mmsafe.scoring.ways import RowLogProbs, Scoring

Collate = Callable[[Sequence[Item]], Batch]
Sums = Mapping[str, tuple[float, int]]
"""Summed log-prob and number of tokens of each row of an item."""


class ReferencePolicy(nn.Module):
    """Gives reference log-probs; a module, so that a model in it moves between devices with the policy."""

    def prepare(self, items: Items, collator: Collator, batch_size: int, num_workers: int = 0) -> None:
        """Make sure that every row of these items can be answered, before the policy is changed."""

    def let_go(self) -> None:
        """Give back a model that is no longer needed, once every row that will be asked for is prepared."""

    def collate(self, collator: Collator) -> Collate:
        """`collator`, its batches carrying what `log_probs` needs."""
        return collator

    def sums(self, items: Items, collator: Collator, batch_size: int, device: torch.device) -> Sequence[Sums]:
        """The summed log-probs of each item, which `prepare` has seen; batches are scored on `device`."""
        collate, totals = self.collate(collator), dict[int, Sums]()
        for positions in batches_of(collator, items, range(len(items)), batch_size):
            rows = self.log_probs(collate([items[i] for i in positions]).to(device))
            sums = {name: row.log_probs.cpu().double().sum(-1).tolist() for name, row in rows.items()}
            tokens = {name: row.mask.sum(-1).tolist() for name, row in rows.items()}
            for number, position in enumerate(positions):
                totals[position] = {name: (sums[name][number], tokens[name][number]) for name in rows}
        return [totals[position] for position in range(len(items))]

    @abstractmethod
    def log_probs(self, batch: Any) -> dict[str, RowLogProbs]:
        """Reference log-probs of a batch, without gradient."""


class Model(ReferencePolicy):
    """A model of its own, scored the same way as the policy."""

    def __init__(self, model: Any, scoring: Scoring) -> None:
        super().__init__()
        self.model = model
        self.scoring = scoring

    def train(self, mode: bool = True) -> Model:
        """A reference is never in training mode."""
        return super().train(False)

    @torch.no_grad()
    def log_probs(self, batch: Any) -> dict[str, RowLogProbs]:
        return self.scoring.log_probs(self.model, batch)


def frozen_copy(model: Any) -> Any:
    """A copy that shares a vision tower nobody trains, and nothing else."""
    towers = family_of(model.config.model_type).towers(model) if tower_is_frozen(model) else []
    shared = {id(tower): tower for tower in towers}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


class WithoutAdapter(ReferencePolicy):
    """The policy with its adapter switched off for the time of a forward pass."""

    def __init__(self, vlm: VLM, scoring: Scoring) -> None:
        super().__init__()
        self._llava = [vlm]  # not a submodule: it belongs to the module that trains it
        self.scoring = scoring

    def prepare(self, items: Items, collator: Collator, batch_size: int, num_workers: int = 0) -> None:
        """Raises `UserError` if the model has no adapter, or if more than the adapter is trained."""
        (vlm,) = self._llava
        if vlm.adapter is None:
            raise UserError("reference=adapter_off: the model has no adapter; choose one by peft=lora")
        trained = [name for name, p in vlm.model.named_parameters() if p.requires_grad]
        others = [name for name in trained if ".lora_" not in name and ".modules_to_save." not in name]
        if others:
            raise UserError(
                f"reference=adapter_off: {len(others)} weights beside the adapter are trained, such as {others[0]}; "
                "switching the adapter off does not bring them back, so freeze them, or choose reference=cached"
            )

    @torch.no_grad()
    def log_probs(self, batch: Any) -> dict[str, RowLogProbs]:
        (vlm,) = self._llava
        with vlm.adapter.disable_adapter():
            return self.scoring.log_probs(vlm.model, batch)
