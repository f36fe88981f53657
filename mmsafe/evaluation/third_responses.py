"""The responses that a run samples for training: which it takes, how good they are, and how stale they become."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict
from mmsafe.evaluation.judging import verdicts_on
from mmsafe.evaluation.statistics import Estimate, mean, rate
from mmsafe.generation.matching import Tells
from mmsafe.generation.ranking import Rates
from mmsafe.models.loading import set_aside
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import GENERATED
from mmsafe.reference.cached import CachedLogProbs
from mmsafe.reference.policies import Sums
from mmsafe.scoring.collate import Items
from mmsafe.training.recipe import Batching, Loss

MEASURES = (
    Metric("third/right", "third response: right"),
    Metric("third/right_where_misled", "third response: right where misled"),
    Metric("third/chosen_better", "third response: worse than chosen"),
    Metric("third/chosen_worse", "third response: better than chosen"),
    Metric("third/tokens", "third response: tokens", judged=False),
    Metric("third/reference_log_prob", "third response: log π_ref", judged=False),
    Metric("sampled/staleness", "sampled responses: staleness", judged=False),
)
MISLED = (("friendly", "yes"), ("suspicious", "no"))
"""The tags `cue` and `harmful` of a prompt whose wording alone suggests the wrong decision."""


def tells(judge: Judge, settings: Generation, vlm: VLM | None = None) -> Tells | None:
    """What `judge` tells of responses for `settings.match`; None where that takes all. `vlm` is as in `rated_by`."""
    if settings.match is None:
        return None
    (detail,) = settings.needs
    return partial(_details, judge, detail, vlm)


def rated_by(judge: Judge, vlm: VLM) -> Rates:
    """Says how good responses are by the verdicts of `judge`, for which `vlm` makes room on the devices if need be."""

    def rates(responses: Sequence[tuple[Example, str]]) -> list[float | None]:
        return [judge.rating(verdict) for verdict in _verdicts(judge, vlm, responses)]

    return rates


def third_responses(vlm: VLM, items: Items, loss: Loss, judge: Judge, max_length: int | None) -> dict[str, Estimate]:
    """How good the third responses are, by their names in `MEASURES`; empty where `judge` cannot tell what is right.

    right_where_misled: of those that are `MISLED`. tokens: mean, with the end. reference_log_prob: mean of
    log π_ref beside the real image, in nats, of the items that are trained on, where it is cached.
    """
    names, encoder = sorted(loss.objective.responses & {*GENERATED}), vlm.encoder()
    if not names or "right" not in judge.tells:
        return {}
    rows = [(example, name) for name in names for example in items.examples]
    third = _details(judge, "right", vlm, [(example, example.responses[name]) for example, name in rows])
    chosen = _details(judge, "right", vlm, [(example, example.responses["chosen"]) for example, _ in rows])
    misled = [third[i] is True for i, (e, _) in enumerate(rows) if (e.tags.get("cue"), e.tags.get("harmful")) in MISLED]
    pairs = list(zip(chosen, third, strict=True))
    estimates = {
        "right": rate([right is True for right in third]),
        "right_where_misled": rate(misled),
        "chosen_better": rate([pair == (True, False) for pair in pairs]),
        "chosen_worse": rate([pair == (False, True) for pair in pairs]),
        "tokens": mean([len(encoder.response_ids(e.responses[name], cut=name in e.cut)) for e, name in rows]),
    }
    if isinstance(loss.reference, CachedLogProbs):
        groups = [{n: row for n, row in rows.items() if row.response in names} for rows in loss.objective.groups]
        sums = loss.reference.sums(items, loss.scoring.collator(encoder, groups, max_length), 1, vlm.model.device)
        estimates["reference_log_prob"] = mean([log_prob for row in sums for log_prob, _ in row.values()])
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _details(judge: Judge, detail: str, vlm: VLM | None, responses: Sequence[tuple[Example, str]]) -> list[bool | None]:
    """What the judge tells of each response to an example; None where it cannot."""
    return [None if verdict.unknown else verdict.details[detail] for verdict in _verdicts(judge, vlm, responses)]


def _verdicts(judge: Judge, vlm: VLM | None, responses: Sequence[tuple[Example, str]]) -> list[Verdict]:
    """Raises `UserError` if the judge failed on any: which rows are trained on must not hang on that."""
    with set_aside(vlm) if vlm is not None and judge.on_devices else nullcontext():
        verdicts = verdicts_on([Case(*response) for response in responses], judge)
    if errors := [verdict.error for verdict in verdicts if verdict.error]:
        why = f"{len(errors)} of {len(verdicts)} verdicts are errors, such as: {errors[0]}"
        raise UserError(f"judge={judge.name}: {why}; the others are kept, and the same command asks for these alone")
    return verdicts


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
        estimate = mean(
            [
                (then[name][0] - now[name][0]) / max(1, now[name][1])
                for then, now in zip(self.sampler, self._sums(policy), strict=True)
                for name in now
            ]
        )
        return {} if estimate is None else {"staleness": estimate}

    def _sums(self, vlm: VLM) -> Sequence[Sums]:
        if not len(self.items):
            return []
        scored = CachedLogProbs(vlm, self.scoring, self.precision, label="staleness")
        scored.prepare(self.items, self.collator, self.batch_size)
        return scored.sums(self.items, self.collator, self.batch_size, vlm.model.device)
