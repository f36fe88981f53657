"""How far a policy has moved from the model that sampled what it is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from mmsafe.core.declared import Metric
from mmsafe.data.example import Example
from mmsafe.evaluation.statistics import Estimate, mean
from mmsafe.models.vlm import VLM
from mmsafe.reference.cached import CachedLogProbs
from mmsafe.reference.policies import Sums
from mmsafe.scoring.collate import Items
from mmsafe.training.recipe import Batching, Loss

MEASURES = (Metric("sampled/staleness", "sampled responses: staleness", judged=False),)


class Staleness:
    """Scores the sampled responses of `examples` by `vlm`, which sampled them, and later by what became of it.

    They are scored beside the view of the image that the objective scores.
    """

    def __init__(self, vlm: VLM, examples: Sequence[Example], loss: Loss, batching: Batching, precision: str) -> None:
        rows = [row for group in loss.objective.groups for row in group.values()]
        group = {row.label: row for row in rows if row.response in loss.objective.sampled}
        self.items = Items(examples if group else [], 1)
        self.collator = loss.scoring.collator(
            vlm.encoder(), (group,), batching.max_length, batching.corruption, max_tokens=batching.max_tokens
        )
        self.scoring, self.batch_size, self.precision = loss.scoring, batching.batch_size, precision
        self.sampler = self._sums(vlm)

    def __call__(self, policy: VLM) -> dict[str, Estimate]:
        """staleness: mean over the responses of (log π_sampler - log π_policy) per token, in nats.

        Where they were sampled beside that same view, at temperature 1 and in full, it estimates the divergence of the
        policy from its sampler, per token; it can be below 0 by chance alone. Empty where nothing was sampled.
        """
        found = mean(
            [
                (then[name][0] - now[name][0]) / max(1, now[name][1])
                for then, now in zip(self.sampler, self._sums(policy), strict=True)
                for name in now
            ]
        )
        return {} if found is None else {"staleness": found}

    def _sums(self, vlm: VLM) -> Sequence[Sums]:
        if not len(self.items):
            return []
        scored = CachedLogProbs(vlm, self.scoring, self.precision, label="staleness")
        scored.prepare(self.items, self.collator, self.batch_size)
        return scored.sums(self.items, self.collator, self.batch_size, vlm.model.device)
