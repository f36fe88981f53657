"""Golden numbers of the objectives around DPO, derived by hand from the example in `hand_scores`.

Where ℓ(x) = ln(1 + e^-x), a flipped pair costs ℓ(-x) = ℓ(x) + x; with β = 0.1 and margin 2, x = 0.2.
"""

from __future__ import annotations

import math

import pytest
import torch
from hand_scores import (
    LN2,
    LOSS_005,
    LOSS_02,
    PRECISIONS,
    SIGMOID_005,
    SIGMOID_02,
    example,
    gradient,
    row,
    with_log_ratios,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmsafe.objectives.base import Objective, ScoredRow
from mmsafe.objectives.bootstrapped_po import BootstrappedPO
from mmsafe.objectives.cdpo import CDPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.dpo_sft import DPOWithSFT
from mmsafe.objectives.hinge import Hinge
from mmsafe.objectives.ipo import IPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.robust_dpo import RobustDPO

# ln(1 + e^-0.1) and σ(-0.1): the anchor of mDPO at β·Δ(y_w|v) = 0.1
LOSS_01, SIGMOID_01 = 0.6443966600735709, 0.47502081252106


def test_the_constants_are_what_they_say():
    assert pytest.approx(math.log(1 + math.exp(-0.1)), abs=1e-15) == LOSS_01
    assert pytest.approx(1 / (1 + math.exp(0.1)), abs=1e-15) == SIGMOID_01


@PRECISIONS
@pytest.mark.parametrize(
    ("objective", "loss", "slope"),
    [
        # (1-ε) ℓ + ε (ℓ + x) = ℓ + ε x
        (CDPO(label_smoothing=0.1), LOSS_02 + 0.02, 0.1 * (0.1 - SIGMOID_02)),
        # [(1-ε) ℓ - ε (ℓ + x)] / (1-2ε) = ℓ - ε x / (1-2ε), here ε / (1-2ε) = 1/8
        (RobustDPO(label_smoothing=0.1), LOSS_02 - 0.025, -0.1 * (SIGMOID_02 + 1 / 8)),
        (CDPO(label_smoothing=0), LOSS_02, -0.1 * SIGMOID_02),
        (RobustDPO(label_smoothing=0), LOSS_02, -0.1 * SIGMOID_02),
        # 1 - 0.2
        (Hinge(), 0.8, -0.1),
        # margin of means 0.5 - (-0.5) = 1 and target 5: (1 - 5)²; each of two tokens has half of the slope 2 (1 - 5)
        (IPO(), 16.0, -4.0),
        # margin of sums 2: (2 - 5)²
        (IPO(log_ratio="sum"), 9.0, -6.0),
        # target 1: the margin of means is just right
        (IPO(beta=0.5), 0.0, 0.0),
    ],
    ids=["cdpo", "robust", "cdpo-0", "robust-0", "hinge", "ipo", "ipo-sum", "ipo-there"],
)
def test_loss_and_gradient(objective: DPO, loss: float, slope: float, dtype: torch.dtype, close: float):
    scores = example(dtype)
    terms = objective(scores)
    assert set(terms) == {"preference"}
    assert terms["preference"].tolist() == pytest.approx([loss], rel=close)
    terms["preference"].sum().backward()
    assert gradient(scores["chosen"]) == pytest.approx([slope] * 2, rel=2 * close)
    assert gradient(scores["rejected"]) == pytest.approx([-slope] * 2, rel=2 * close)


def test_ipo_by_tokens_does_not_depend_on_lengths():
    short = {"chosen": row([[1.0]], [[0.0]]), "rejected": row([[-0.5]], [[0.0]])}
    long = {"chosen": row([[1.0] * 7], [[0.0] * 7]), "rejected": row([[-0.5] * 3], [[0.0] * 3])}
    assert IPO()(short)["preference"].item() == pytest.approx(IPO()(long)["preference"].item()) == (1.5 - 5) ** 2


def test_cdpo_stops_at_its_label():
    # σ(βz) = 0.9 at βz = ln 9: no gradient there, and opposite ones on both sides
    margins = [9.0, 10 * math.log(9), 30.0]
    scores = with_log_ratios(chosen=margins, rejected=[0.0] * 3)
    CDPO(label_smoothing=0.1)(scores)["preference"].sum().backward()
    below, there, above = gradient(scores["chosen"])
    assert below < 0 < above
    assert there == pytest.approx(0, abs=1e-15)


@given(st.floats(-100, 100), st.floats(0, 0.49))
def test_robust_dpo_is_the_dpo_loss_of_true_labels_on_average(margin: float, rate: float):
    objective, z = RobustDPO(label_smoothing=rate), torch.tensor(margin, dtype=torch.float64)
    mean = (1 - rate) * objective.loss(z) + rate * objective.loss(-z)
    assert mean.item() == pytest.approx(DPO().loss(z).item(), rel=1e-9, abs=1e-9)


def test_robust_dpo_has_no_lower_bound():
    assert RobustDPO(label_smoothing=0.1).loss(torch.tensor(1000.0)).item() == pytest.approx(-100 / 8)


@pytest.mark.parametrize("objective", [CDPO, RobustDPO])
@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0])
def test_labels_that_say_nothing_or_the_opposite_are_refused(objective: type[CDPO], rate: float):
    with pytest.raises(ValidationError, match="label_smoothing"):
        objective(label_smoothing=rate)


def test_a_hinge_leaves_wide_margins_alone():
    scores = with_log_ratios(chosen=[11.0, 9.0], rejected=[0.0, 0.0])
    terms = Hinge(beta=0.1)(scores)
    assert terms["preference"].tolist() == pytest.approx([0.0, 0.1])
    terms["preference"].sum().backward()
    assert gradient(scores["chosen"]) == pytest.approx([0.0, -0.1])
    assert gradient(scores["rejected"]) == pytest.approx([0.0, 0.1])


@PRECISIONS
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_dpo_with_sft(weight: float, dtype: torch.dtype, close: float):
    scores = example(dtype)
    terms = DPOWithSFT(sft_weight=weight)(scores)
    assert terms["preference"].tolist() == pytest.approx([LOSS_02], rel=close)
    assert terms["nll"].tolist() == pytest.approx([weight * 1.5], rel=close)
    sum(terms.values()).sum().backward()
    assert gradient(scores["chosen"]) == pytest.approx([-0.1 * SIGMOID_02 - weight / 2] * 2, rel=close)
    assert gradient(scores["rejected"]) == pytest.approx([0.1 * SIGMOID_02] * 2, rel=close)


def test_the_supervised_term_weighs_every_response_alike():
    chosen = row([[-1.0, -2.0, -3.0], [-4.0]], [[0.0] * 3, [0.0]])
    terms = DPOWithSFT()({"chosen": chosen, "rejected": row([[-1.0], [-1.0]], [[0.0], [0.0]])})
    assert terms["nll"].tolist() == [2.0, 4.0]


@PRECISIONS
def test_mdpo(dtype: torch.dtype, close: float):
    triple = example(dtype)
    scores = {**triple, "corrupted": triple.pop("blind")}  # Δ(y_w|v') = 0.5
    terms = MDPO()(scores)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"preference": LOSS_02, "image": LOSS_005, "anchor": LOSS_01}, rel=close
    )
    sum(terms.values()).sum().backward()
    slope = -0.1 * (SIGMOID_02 + SIGMOID_005 + SIGMOID_01)
    assert gradient(scores["chosen"]) == pytest.approx([slope] * 2, rel=close)
    assert gradient(scores["rejected"]) == pytest.approx([0.1 * SIGMOID_02] * 2, rel=close)
    assert gradient(scores["corrupted"]) == pytest.approx([0.1 * SIGMOID_005], rel=close)


def test_mdpo_weights_and_anchor_margin():
    triple = example()
    objective = MDPO(image_weight=0.5, anchor_weight=2, anchor_margin=0.05)
    terms = objective({**triple, "corrupted": triple.pop("blind")})
    # the anchor at 0.1 - 0.05
    expected = {"preference": LOSS_02, "image": LOSS_005 / 2, "anchor": 2 * LOSS_005}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-13)
    start = {"preference": LN2, "image": LN2 / 2, "anchor": 2 * math.log(1 + math.exp(0.05))}
    assert dict(objective.start) == pytest.approx(start, rel=1e-13)


def test_mdpo_scores_the_chosen_response_beside_two_images():
    (rows,) = MDPO().groups
    assert rows["corrupted"] == ScoredRow("chosen", "corrupted")
    assert [row.label for row in rows.values()] == ["chosen", "rejected", "chosen_corrupted"]
    assert MDPO().responses == {"chosen", "rejected"}


def test_bootstrapped_po_is_dpo_over_the_weakened_response():
    objective = BootstrappedPO()
    assert objective.groups == ({"chosen": ScoredRow("chosen"), "rejected": ScoredRow("weakened")},)
    assert objective.responses == {"chosen", "weakened"}
    assert objective(example())["preference"].tolist() == pytest.approx([LOSS_02], rel=1e-13)


@pytest.mark.parametrize(
    ("objective", "start"),
    [(Hinge(beta=3), 1.0), (IPO(beta=0.5), 1.0), (IPO(beta=0.1), 25.0), (CDPO(), LN2), (RobustDPO(), LN2)],
)
def test_start(objective: Objective, start: float):
    assert objective.start["preference"] == pytest.approx(start)
