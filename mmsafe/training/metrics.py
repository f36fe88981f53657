"""What a training step logs; names as in TRL, with `…/blind` and the like beside them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmsafe.core.ranks import gathered
from mmsafe.objectives.base import Objective, Scores, Terms


@torch.no_grad()
def step_metrics(
    objective: Objective,
    group: Tensor,
    scores: Mapping[str, Scores],
    terms: Terms,
    members: Tensor | None = None,
    slices: Sequence[object] = (),
) -> dict[str, Tensor]:
    """Loss terms, rewards, margins, accuracies and log-probs of one batch: sum and count, `[2]`, without gradient.

    `group` is the group of each item, `[batch]`: in a batch of mixed groups a row counts under its own label, and an
    item of group -1 does not count. Sums and counts may be added up over micro-batches and ranks; `means` divides. Loss
    terms count as often as the item has tokens, where the objective averages over tokens.

    `members`, `[slices, batch]`, says which items are of which of `slices`: loss, margins and accuracies are told for
    each, as `train/loss/source=a`.
    """
    share = (group >= 0).float()
    loss = torch.stack(list(terms.values())).sum(0)
    if objective.tokens_of is not None:
        share = share * scores[objective.tokens_of].length.clamp(min=1)
    metrics = {f"loss/{name}": _total(term, share) for name, term in terms.items()}
    metrics["train/loss"] = _total(loss, share)
    metrics |= _by_slice("train/loss", loss, share, members, slices)
    log_probs = {name: score.log_prob for name, score in scores.items()}
    metrics |= {f"logps/{label}": value for label, value in _by_label(objective, group, log_probs).items()}
    rewards = {name: reward for name, score in scores.items() if (reward := objective.reward(score)) is not None}
    if rewards:
        metrics |= {f"rewards/{label}": value for label, value in _by_label(objective, group, rewards).items()}
        for name, values, items in _margins(objective, group, rewards):
            metrics[name] = _total(values, items)
            metrics |= _by_slice(name, values, items, members, slices)
    return metrics


def means(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Sum over count, where anything was counted."""
    pairs = zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)
    return {name: total / count for name, (total, count) in pairs if count}


def over_ranks(window: Mapping[str, Sequence[Tensor]], *others: Tensor) -> tuple[dict[str, Tensor], list[float]]:
    """Sums and counts over all micro-batches and ranks, on the CPU, and the values of this rank's `others`.

    A rank whose batch was of one group only may lack some. The device is waited for once, for all of them.
    """
    sums = [torch.stack(list(values)).sum(0) for values in window.values()]
    local = torch.stack([*sums, *(other.float().expand(2) for other in others)]).cpu()
    totals: dict[str, Tensor] = {}
    for names, table in gathered((list(window), local[: len(sums)])):
        for name, row in zip(names, table, strict=True):
            totals[name] = totals[name] + row if name in totals else row
    return totals, local[len(sums) :, 0].tolist()


def _total(values: Tensor, share: Tensor) -> Tensor:
    """Sum and count; items that count nothing are left out without a wait for the device, which indexing would be."""
    share = share.float()
    return torch.stack([torch.where(share > 0, values.detach().float() * share, 0.0).sum(), share.sum()])


def _by_slice(
    name: str, values: Tensor, share: Tensor, members: Tensor | None, slices: Sequence[object]
) -> dict[str, Tensor]:
    """Total of a value over the items of each slice, which count `share` times; nothing waits for the device."""
    if members is None:
        return {}
    weights = members * share.float()
    sums = torch.where(weights > 0, weights * values.detach().float(), 0.0).sum(1)
    totals = torch.stack([sums, weights.sum(1)], dim=1)
    return {f"{name}/{part}": total for part, total in zip(slices, totals.unbind(), strict=True)}


def _by_label(objective: Objective, group: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Total of a value by the label of its row, over the items that have such a row."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for index, rows in enumerate(objective.groups):
        for name, row in rows.items():
            parts[row.label].append((values[name], group == index))
    return {label: _total(*map(torch.cat, zip(*both, strict=True))) for label, both in parts.items()}


def _margins(
    objective: Objective, group: Tensor, rewards: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Margin and accuracy of the chosen row over each other one: name, values of all items, and which of them count.

    The plain names are those over what the first group calls `rejected`, whichever response that is.
    """
    plain = objective.groups[0].get("rejected")
    for index, rows in enumerate(objective.groups):
        items = group == index
        if "chosen" not in rows:
            continue
        for name, row in rows.items():
            if name != "chosen":
                margin = rewards["chosen"] - rewards[name]
                suffix = "" if row == plain else f"/{row.label}"
                yield f"rewards/margins{suffix}", margin, items
                yield f"rewards/accuracies{suffix}", margin > 0, items
