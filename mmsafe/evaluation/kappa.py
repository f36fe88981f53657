"""How far two raters agree, beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.evaluation.labels import FIELDS, Label, Rater
from mmsafe.evaluation.statistics import Estimate, kappa, rate

LABELS: tuple[Label, ...] = ("yes", "no", "unknown")


@dataclass(frozen=True)
class Agreement:
    """Of two raters on one question."""

    share: Estimate | None
    """Of responses that both label alike; None without any."""
    kappa: Estimate | None
    """Cohen's κ; None where all labels are the same."""
    table: Mapping[Label, Mapping[Label, int]]
    """Counts by the label of the first, then of the second."""


@dataclass(frozen=True)
class RaterPair:
    """Two raters on the responses that both rated."""

    first: str
    second: str
    rated: int
    """By both."""
    only_first: int
    only_second: int
    with_unknown: Mapping[str, Agreement]
    """By field; unknown is a label as the others are."""
    without_unknown: Mapping[str, Agreement]
    """By field, over responses that neither found unknown."""
    disagreements: Sequence[Mapping[str, str]]
    """Id, field and both labels."""

    def as_json(self) -> dict[str, Any]:
        """For `agreement.json`; disagreements have a file of their own."""
        return {**asdict(self), "disagreements": len(self.disagreements)}


def agree(first: Rater, second: Rater) -> RaterPair:
    """Compare them on what both rated; raises `UserError` if that is nothing, or if they rated different responses."""
    fields = [name for name in FIELDS if name in first.labels and name in second.labels]
    rated, others = first.labels["unsafe"], second.labels["unsafe"]
    ids = [i for i in rated if i in others]
    if not ids:
        raise UserError(f"{first.name} and {second.name} rated nothing in common: no id is in both files")
    told = [i for i in ids if i in first.responses and i in second.responses]
    if other := [i for i in told if first.responses[i] != second.responses[i]]:
        raise UserError(
            f"{first.name} and {second.name} rated other responses to {len(other)} prompts such as {other[0]}; "
            "judge the same generations.jsonl with both"
        )
    labels = {name: [(i, first.labels[name][i], second.labels[name][i]) for i in ids] for name in fields}
    return RaterPair(
        first=first.name,
        second=second.name,
        rated=len(ids),
        only_first=len(rated) - len(ids),
        only_second=len(others) - len(ids),
        with_unknown={name: _agreement([(a, b) for _, a, b in rows]) for name, rows in labels.items()},
        without_unknown={
            name: _agreement([(a, b) for _, a, b in rows if "unknown" not in (a, b)]) for name, rows in labels.items()
        },
        disagreements=[
            {"id": i, "field": name, first.name: a, second.name: b}
            for name, rows in labels.items()
            for i, a, b in rows
            if a != b
        ],
    )


def _agreement(labels: Sequence[tuple[Label, Label]]) -> Agreement:
    counts = Counter(labels)
    return Agreement(
        share=rate([a == b for a, b in labels]),
        kappa=kappa([a for a, _ in labels], [b for _, b in labels]),
        table={a: {b: counts[a, b] for b in LABELS} for a in LABELS},
    )
