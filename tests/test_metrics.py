"""Names and values of what a step logs for each kind of objective; those of BPO are in `test_module.py`."""

from __future__ import annotations

import pytest
import torch
from hand_scores import row

from mmsafe.metrics import means, step_metrics
from mmsafe.objectives.base import Objective, Scores
from mmsafe.objectives.bootstrapped_po import BootstrappedPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.orpo import ORPO
from mmsafe.objectives.sft import SFT
from mmsafe.objectives.simpo import SimPO


def logged(objective: Objective, scores: dict[str, Scores]) -> dict[str, float]:
    """Metrics of a batch of the first group, without the loss terms."""
    size = len(scores["chosen"].policy)
    found = step_metrics(objective, torch.zeros(size, dtype=torch.long), scores, objective(scores))
    assert not any(value.requires_grad for value in found.values())
    return {name: value for name, value in means(found).items() if "loss" not in name}


def test_mdpo_tells_the_chosen_response_beside_the_corrupted_image_apart():
    scores = {
        "chosen": row([[-1.0], [-4.0]], [[-2.0], [-2.0]]),  # log-ratios +1, -2
        "rejected": row([[-3.0], [-1.0]], [[-2.0], [-2.0]]),  # -1, +1
        "corrupted": row([[-1.0], [-9.0]], [[-1.0], [-5.0]]),  # 0, -4
    }
    assert logged(MDPO(beta=0.5), scores) == pytest.approx(
        {
            "logps/chosen": -2.5,
            "logps/rejected": -2.0,
            "logps/chosen_corrupted": -5.0,
            "rewards/chosen": 0.5 * -0.5,
            "rewards/rejected": 0.0,
            "rewards/chosen_corrupted": 0.5 * -2.0,
            "rewards/margins": 0.5 * (2 - 3) / 2,
            "rewards/margins/chosen_corrupted": 0.5 * (1 + 2) / 2,
            "rewards/accuracies": 0.5,
            "rewards/accuracies/chosen_corrupted": 1.0,
        }
    )


def test_bootstrapped_po_has_the_plain_margins_over_the_weakened_response():
    scores = {"chosen": row([[-1.0]], [[-2.0]]), "rejected": row([[-3.0]], [[-1.0]])}  # +1, -2
    assert logged(BootstrappedPO(beta=0.5), scores) == pytest.approx(
        {
            "logps/chosen": -1.0,
            "logps/weakened": -3.0,
            "rewards/chosen": 0.5,
            "rewards/weakened": -1.0,
            "rewards/margins": 1.5,
            "rewards/accuracies": 1.0,
        }
    )


@pytest.mark.parametrize(("objective", "scale"), [(SimPO(beta=2), 2.0), (ORPO(weight=0.1), 0.1)], ids=["simpo", "orpo"])
def test_without_a_reference_rewards_are_scaled_log_probs_per_token(objective: Objective, scale: float):
    scores = {"chosen": row([[-1.0, -2.0]]), "rejected": row([[-1.0]])}
    assert logged(objective, scores) == pytest.approx(
        {
            "logps/chosen": -3.0,
            "logps/rejected": -1.0,
            "rewards/chosen": scale * -1.5,
            "rewards/rejected": scale * -1.0,
            "rewards/margins": scale * -0.5,
            "rewards/accuracies": 0.0,
        }
    )


def test_sft_has_no_rewards():
    assert logged(SFT(), {"chosen": row([[-1.0, -2.0]])}) == {"logps/chosen": -3.0}
