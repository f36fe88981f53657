"""What a training step logs; names as in TRL, with `…/blind` beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from mmsafe.objectives.base import Objective, Scores, Terms


@torch.no_grad()
def step_metrics(objective: Objective, group: Tensor, scores: Mapping[str, Scores], terms: Terms) -> dict[str, Tensor]:
    """Loss terms, rewards, margins, accuracies and log-probs of one batch, averaged; scalars without gradient.

    `group` is the group of each item, `[batch]`: in a batch of mixed groups a row counts under the response it holds.
    """
    found = {f"loss/{name}": term.mean() for name, term in terms.items()}
    log_probs = {name: score.log_prob for name, score in scores.items()}
    found |= {f"logps/{name}": value for name, value in _by_response(objective, group, log_probs).items()}
    if objective.needs_reference:
        rewards = {name: objective.reward_scale * score.log_ratio for name, score in scores.items()}
        found |= {f"rewards/{name}": value for name, value in _by_response(objective, group, rewards).items()}
        found |= _margins(objective, group, rewards)
    return {name: value.detach().float() for name, value in found.items()}


def _by_response(objective: Objective, group: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of a value by response name, over the items that hold the response."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for index, rows in enumerate(objective.groups):
        for name, row in rows.items():
            parts[row.response].append(values[name][group == index])
    return {name: torch.cat(found).mean() for name, found in parts.items() if sum(map(len, found))}


def _margins(objective: Objective, group: Tensor, rewards: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Margin and accuracy of the chosen response over each other one; the plain names are those over `rejected`."""
    found = {}
    for index, rows in enumerate(objective.groups):
        items = group == index
        if not items.any() or "chosen" not in rows:
            continue
        for name, row in rows.items():
            if name != "chosen":
                margin = (rewards["chosen"] - rewards[name])[items]
                suffix = "" if row.response == "rejected" else f"/{row.response}"
                found[f"rewards/margins{suffix}"] = margin.mean()
                found[f"rewards/accuracies{suffix}"] = (margin > 0).float().mean()
    return found
