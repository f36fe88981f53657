"""The reference policy π_ref: `conf/reference/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mmsafe.core.options import options

if TYPE_CHECKING:
    from mmsafe.models.vlm import VLM
    from mmsafe.reference.policies import ReferencePolicy
    from mmsafe.scoring.ways import Scoring


@options
class Reference(ABC):
    """Where reference log-probs come from."""

    moves: bool = False
    """Whether each round of several has the policy that it starts from for its reference, not the first one's."""

    @abstractmethod
    def policy(self, vlm: VLM, scoring: Scoring, precision: str) -> ReferencePolicy:
        """The reference, taken from `vlm` before training changes it; `precision` is that of the training steps."""


@options
class Cached(Reference):
    """Computed in one pass before training and kept on disk: no second model, and no second forward pass.

    The pass is shared by every run on the same model and data, whatever its objective, β or epochs.
    """

    def policy(self, vlm: VLM, scoring: Scoring, precision: str) -> ReferencePolicy:
        """Log-probs on disk, stored under a key of model, scoring and precision."""
        from mmsafe.reference.cached import CachedLogProbs

        return CachedLogProbs(vlm, scoring, precision)


@options
class Frozen(Reference):
    """A frozen copy of the policy as it was when training began; costs the memory of a second model."""

    def policy(self, vlm: VLM, scoring: Scoring, precision: str) -> ReferencePolicy:
        """Copy the weights in hand, never a model reloaded by name, so that step 0 is exact."""
        from mmsafe.reference.policies import Model, frozen_copy

        return Model(frozen_copy(vlm.model), scoring)


@options
class AdapterOff(Reference):
    """The policy itself with its adapter switched off; needs no second model, but a second forward pass."""

    def policy(self, vlm: VLM, scoring: Scoring, precision: str) -> ReferencePolicy:
        """The adapter may be added later, before log-probs are asked for."""
        from mmsafe.reference.policies import WithoutAdapter

        return WithoutAdapter(vlm, scoring)
