"""Names and values of what a step logs for each kind of objective; those of BPO are in `test_module.py`."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hand_scores import row

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.objectives.base import Objective, Scores
from mmsafe.objectives.bootstrapped_po import BootstrappedPO
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.orpo import ORPO
from mmsafe.objectives.sft import SFT
from mmsafe.objectives.simpo import SimPO
from mmsafe.scoring.slices import Slice, slices_of
from mmsafe.training.metrics import means, step_metrics
from mmsafe.training.module import _over_ranks


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


# --- By slice ----------------------------------------------------------------------------------------------------

TWO = {
    "chosen": row([[-1.0], [-4.0], [-1.0], [-9.0]], [[-2.0], [-2.0], [-2.0], [0.0]]),  # log-ratios +1, -2, +1, -9
    "rejected": row([[-3.0], [-1.0], [-2.0], [0.0]], [[-2.0], [-2.0], [-2.0], [0.0]]),  # -1, +1, 0, 0
}
"""Margins 2, -3, 1, -9 before β; the last item does not count, as one that a rank repeats."""
COUNTED = torch.tensor([0, 0, 0, -1])
A, B, NONE = Slice("source", "a"), Slice("source", "b"), Slice("source", "c")
MEMBERS = torch.tensor([[True, False, True, True], [False, True, False, False], [False, False, False, False]])


def in_slices() -> dict[str, torch.Tensor]:
    objective = DPO(beta=1.0)
    return step_metrics(objective, COUNTED, TWO, objective(TWO), MEMBERS, (A, B, NONE))


def test_loss_margin_and_accuracy_of_each_slice_by_hand():
    """-ln σ(m) = ln(1 + e^-m); items 0 and 2 are of a, with margins 2 and 1, and item 1 of b, with margin -3."""
    found = means(in_slices())
    loss = {margin: math.log1p(math.exp(-margin)) for margin in (2, 1, -3)}
    by_slice = {
        "train/loss/source=a": (loss[2] + loss[1]) / 2,
        "train/loss/source=b": loss[-3],
        "rewards/margins/source=a": 1.5,
        "rewards/margins/source=b": -3.0,
        "rewards/accuracies/source=a": 1.0,
        "rewards/accuracies/source=b": 0.0,
    }
    assert {name: value for name, value in found.items() if "=" in name} == pytest.approx(by_slice)
    assert found["train/loss"] == pytest.approx(sum(loss.values()) / 3)
    assert found["rewards/accuracies"] == pytest.approx(2 / 3)


def test_slices_change_none_of_the_other_metrics():
    objective = DPO(beta=1.0)
    without = step_metrics(objective, COUNTED, TWO, objective(TWO))
    assert means(without) == {name: value for name, value in means(in_slices()).items() if "=" not in name}


def test_slices_of_mixed_pairs_tell_blind_from_rejected():
    """In the second group the row `rejected` is the blind response: item 1, of b, has margin 2 - (-1) = 3 over it."""
    objective = BPO(beta=1.0, mode="concat")
    scores = {"chosen": row([[1.0], [2.0]], [[0.0], [0.0]]), "rejected": row([[5.0], [-1.0]], [[0.0], [0.0]])}
    members = torch.tensor([[True, False], [False, True]])
    found = means(step_metrics(objective, torch.tensor([0, 1]), scores, objective(scores), members, (A, B)))
    assert {name: value for name, value in found.items() if name.startswith("rewards/margins")} == pytest.approx(
        {
            "rewards/margins": -4.0,
            "rewards/margins/source=a": -4.0,
            "rewards/margins/blind": 3.0,
            "rewards/margins/blind/source=b": 3.0,
        }
    )


def test_ranks_and_micro_batches_are_weighted_by_what_they_counted(monkeypatch: pytest.MonkeyPatch):
    """Two items of a on one rank with loss 1 in total, one on another with loss 4: 5 / 3, not the mean of 0.5 and 4."""
    sums = {"train/loss/source=a": torch.tensor([1.0, 2.0]), "train/loss/source=b": torch.tensor([0.0, 0.0])}
    other = (["train/loss/source=a", "rewards/margins"], torch.tensor([[4.0, 1.0], [6.0, 2.0]]))
    monkeypatch.setattr("mmsafe.training.module.gathered", lambda own: [own, other])
    assert means(_over_ranks(sums)) == pytest.approx({"train/loss/source=a": 5 / 3, "rewards/margins": 3.0})


def test_slices_are_the_values_of_the_tags():
    tags = [{"source": "b", "kind": "x"}, {"source": "a"}, {"source": "b"}, {}]
    found = [Example(str(number), (Turn("user", "?"),), None, {}, own) for number, own in enumerate(tags)]
    assert [str(part) for part in slices_of(found, ["kind", "source"])] == ["kind=x", "source=a", "source=b"]
    assert [str(part) for part in slices_of(found, None)] == ["source=a", "source=b"]
    assert slices_of(found[3:], None) == ()
    unfit = [replace(found[0], tags={"kind": "a\nb"})]
    with pytest.raises(UserError, match=r"^trainer\.metrics_by: a value of the tag 'kind' is not one line"):
        slices_of(unfit, ["kind"])
    assert slices_of(found, []) == ()
    assert [[part.has(example) for example in found] for part in slices_of(found, ["source"])] == [
        [False, True, False, False],
        [True, False, True, False],
    ]
    with pytest.raises(UserError, match=r"no training example has the tag 'king'; there are: kind, source"):
        slices_of(found, ["source", "king"])
