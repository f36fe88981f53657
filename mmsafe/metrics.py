"""What a training step logs; names as in TRL, with `…/blind` beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmsafe.objectives.base import Objective, Scores, Terms


def step_metrics(objective: Objective, group: Tensor, scores: Mapping[str, Scores], terms: Terms) -> dict[str, Tensor]:
    """Loss terms, rewards, margins, accuracies and log-probs of one batch, averaged; scalars without gradient.

    `group` is the group of each item, `[batch]`: in a batch of mixed groups a row counts under the response it holds.
    """
    with torch.no_grad():
        found = {f"loss/{name}": term.mean() for name, term in terms.items()}
        responses = _by_response(objective, group, scores)
        for name, (log_prob, _) in responses.items():
            found[f"logps/{name}"] = log_prob.mean()
        if objective.needs_reference:
            found |= _rewards(objective, responses)
            found |= _margins(objective, group, scores)
        return {name: value.detach().float() for name, value in found.items()}


def _by_response(
    objective: Objective, group: Tensor, scores: Mapping[str, Scores]
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Log-probs and log-ratios by response name, over the items that hold it."""
    parts: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    for index, rows in enumerate(objective.groups):
        items = group == index
        if items.any():
            for name, row in rows.items():
                score = scores[name]
                ratio = score.log_ratio[items] if score.reference is not None else None
                parts.setdefault(row.response, []).append((score.log_prob[items], ratio))
    return {name: (_join([p for p, _ in found]), _join([r for _, r in found])) for name, found in parts.items()}


def _join(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([part for part in parts if part is not None]) if parts[0] is not None else torch.empty(0)


def _rewards(objective: Objective, responses: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    scale = objective.reward_scale
    return {f"rewards/{name}": scale * r.mean() for name, (_, r) in responses.items() if r is not None}


def _margins(objective: Objective, group: Tensor, scores: Mapping[str, Scores]) -> dict[str, Tensor]:
    """Margin and accuracy of the chosen response over each other one; the plain names are those over `rejected`."""
    found = {}
    for index, rows in enumerate(objective.groups):
        items = group == index
        if not items.any() or "chosen" not in rows:
            continue
        for name, row in rows.items():
            if name != "chosen":
                margin = (scores["chosen"].log_ratio - scores[name].log_ratio)[items]
                suffix = "" if row.response == "rejected" else f"/{row.response}"
                found[f"rewards/margins{suffix}"] = objective.reward_scale * margin.mean()
                found[f"rewards/accuracies{suffix}"] = (margin > 0).float().mean()
    return found
