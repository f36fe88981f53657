"""Names and values of what a step logs for each kind of objective."""

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
from mmsafe.training.metrics import means, over_ranks, step_metrics


def pair_of(chosen: list[list[float]], rejected: list[list[float]], zeros: int = 0) -> dict[str, Scores]:
    reference = [[0.0]] * zeros or None
    return {"chosen": row(chosen, reference), "rejected": row(rejected, reference)}


PAIR = {
    "chosen": row([[-1.0], [-4.0]], [[-2.0], [-2.0]]),  # log-ratios +1, -2
    "rejected": row([[-3.0], [-1.0]], [[-2.0], [-2.0]]),  # -1, +1
}
THIRD = row([[-1.0], [-9.0]], [[-1.0], [-5.0]])  # 0, -4


def triple(third: str) -> dict[str, float]:
    """Of the pair and a third row, at β = 0.5."""
    return {
        "logps/chosen": -2.5,
        "logps/rejected": -2.0,
        f"logps/{third}": -5.0,
        "rewards/chosen": 0.5 * -0.5,
        "rewards/rejected": 0.0,
        f"rewards/{third}": 0.5 * -2.0,
        "rewards/margins": 0.5 * (2 - 3) / 2,
        f"rewards/margins/{third}": 0.5 * (1 + 2) / 2,
        "rewards/accuracies": 0.5,
        f"rewards/accuracies/{third}": 1.0,
    }


def per_token(scale: float) -> dict[str, float]:
    """Without a reference rewards are scaled log-probs per token."""
    return {
        "logps/chosen": -3.0,
        "logps/rejected": -1.0,
        "rewards/chosen": scale * -1.5,
        "rewards/rejected": scale * -1.0,
        "rewards/margins": scale * -0.5,
        "rewards/accuracies": 0.0,
    }


WEAKENED = {
    "logps/chosen": -2.5,
    "logps/weakened": -2.0,
    "rewards/chosen": -0.25,
    "rewards/weakened": 0.0,
    "rewards/margins": -0.25,  # the plain ones are over the weakened response
    "rewards/accuracies": 0.5,
}
MIXED = {
    "logps/chosen": 2.0,
    "logps/rejected": 5.5,
    "logps/blind": -1.0,
    "rewards/chosen": 2.0,
    "rewards/rejected": 5.5,
    "rewards/blind": -1.0,
    "rewards/margins": -3.5,  # (1 - 5, 3 - 6)
    "rewards/accuracies": 0.0,
    "rewards/margins/blind": 3.0,
    "rewards/accuracies/blind": 1.0,
}
ONLY_BLIND = {name: value for name, value in MIXED.items() if "blind" in name}
UNEQUAL = pair_of([[-1.0, -2.0]], [[-1.0]])


@pytest.mark.parametrize(
    ("objective", "scores", "group", "expected"),
    [
        (MDPO(beta=0.5), {**PAIR, "corrupted": THIRD}, [0, 0], triple("chosen_corrupted")),
        (BPO(beta=0.5), {**PAIR, "blind": THIRD}, [0, 0], triple("blind")),
        (BootstrappedPO(beta=0.5), PAIR, [0, 0], WEAKENED),
        (SimPO(beta=2), UNEQUAL, [0], per_token(2.0)),
        (ORPO(weight=0.1), UNEQUAL, [0], per_token(0.1)),
        (SFT(), {"chosen": row([[-1.0, -2.0]])}, [0], {"logps/chosen": -3.0}),
        # in the second group the row `rejected` is the blind response
        (BPO(beta=1.0, mode="concat"), pair_of([[1.0], [2.0], [3.0]], [[5.0], [-1.0], [6.0]], 3), [0, 1, 0], MIXED),
        # named is only what a batch holds
        (
            *(BPO(beta=1.0, mode="concat"), pair_of([[2.0]], [[-1.0]], 1), [1]),
            ONLY_BLIND | {"logps/chosen": 2.0, "rewards/chosen": 2.0},
        ),
    ],
    ids=["mdpo", "bpo", "bootstrapped", "simpo", "orpo", "sft", "concat", "concat, blind only"],
)
def test_rewards_margins_and_log_probs_by_hand(
    objective: Objective, scores: dict[str, Scores], group: list[int], expected: dict[str, float]
):
    found = step_metrics(objective, torch.tensor(group), scores, objective(scores))
    assert not any(value.requires_grad for value in found.values())
    assert {name: value for name, value in means(found).items() if "loss" not in name} == pytest.approx(expected)


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
    without = means(step_metrics(DPO(beta=1.0), COUNTED, TWO, DPO(beta=1.0)(TWO)))
    assert without == {name: value for name, value in found.items() if "=" not in name}, "slices change nothing else"


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
    micro_batches = [torch.tensor([0.75, 1.0]), torch.tensor([0.25, 1.0])]
    window = {"train/loss/source=a": micro_batches, "train/loss/source=b": [torch.tensor([0.0, 0.0])]}
    other = (["train/loss/source=a", "rewards/margins"], torch.tensor([[4.0, 1.0], [6.0, 2.0]]))
    monkeypatch.setattr("mmsafe.training.metrics.gathered", lambda own: [own, other])
    totals, norms = over_ranks(window, torch.tensor(7.0))
    assert means(totals) == pytest.approx({"train/loss/source=a": 5 / 3, "rewards/margins": 3.0})
    assert norms == [7.0]


def test_slices_are_the_values_of_the_tags():
    tags = [{"source": "b", "kind": "x"}, {"source": "a"}, {"source": "b"}, {}]
    found = [Example(str(number), (Turn("user", "?"),), (), {}, own) for number, own in enumerate(tags)]
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
