"""The reference policy π_ref: `conf/reference/`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from mmsafe.options import options

if TYPE_CHECKING:
    from mmsafe.data.collate import Batch
    from mmsafe.scoring import RowLogProbs, Scoring


@options
class Reference(ABC):
    """Where reference log-probs come from."""

    @abstractmethod
    def model(self, policy: Any) -> Any:
        """The module that holds the reference, made before training changes `policy`."""

    @abstractmethod
    def log_probs(self, model: Any, scoring: Scoring, batch: Batch) -> dict[str, RowLogProbs]:
        """Reference log-probs of a batch, without gradient."""


@options
class Frozen(Reference):
    """A frozen copy of the policy as it was when training began; costs the memory of a second model."""

    def model(self, policy: Any) -> Any:
        """Copy the weights in hand, never a model reloaded by name, so that step 0 is exact."""
        return copy.deepcopy(policy).requires_grad_(False).eval()

    def log_probs(self, model: Any, scoring: Scoring, batch: Batch) -> dict[str, RowLogProbs]:
        """The same scoring path as the policy's."""
        import torch

        with torch.no_grad():
            return scoring.log_probs(model, batch)
