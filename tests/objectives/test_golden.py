"""Golden numbers of SFT, DPO and BPO, losses and gradients, derived by hand from the example in `hand_scores`."""

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
    row,
    with_log_ratios,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmsafe.objectives.base import ScoredRow, negative_log_sigmoid
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO, preference_loss
from mmsafe.objectives.sft import SFT


def test_the_constants_are_what_they_say():
    for loss, sigmoid, x in [(LOSS_02, SIGMOID_02, 0.2), (LOSS_005, SIGMOID_005, 0.05)]:
        assert loss == pytest.approx(math.log(1 + math.exp(-x)), abs=1e-15)
        assert sigmoid == pytest.approx(1 / (1 + math.exp(x)), abs=1e-15)


def test_scores_are_summed_over_tokens_not_averaged():
    scores = example()["chosen"]
    assert scores.log_prob.tolist() == [-3.0]
    assert scores.log_ratio.tolist() == [1.0]
    assert scores.length.tolist() == [2]


@PRECISIONS
def test_dpo(dtype: torch.dtype, close: float):
    scores = example(dtype)
    terms = DPO(beta=0.1)(scores)
    assert terms["preference"].tolist() == pytest.approx([LOSS_02], rel=close)
    terms["preference"].sum().backward()
    # dL/dlogp = -β σ(-βm) for each chosen token, the opposite for each rejected one
    gradient = 0.1 * SIGMOID_02
    assert scores["chosen"].policy.grad.flatten().tolist() == pytest.approx([-gradient] * 2, rel=close)
    assert scores["rejected"].policy.grad.flatten().tolist() == pytest.approx([gradient] * 2, rel=close)


@PRECISIONS
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_bpo_joint(weight: float, dtype: torch.dtype, close: float):
    scores = example(dtype)
    terms = BPO(beta=0.1, blind_weight=weight)(scores)
    assert terms["preference"].tolist() == pytest.approx([LOSS_02], rel=close)
    assert terms["blind"].tolist() == pytest.approx([weight * LOSS_005], rel=close)
    sum(terms.values()).sum().backward()
    worse, blind = 0.1 * SIGMOID_02, weight * 0.1 * SIGMOID_005
    assert scores["chosen"].policy.grad.flatten().tolist() == pytest.approx([-worse - blind] * 2, rel=close)
    assert scores["rejected"].policy.grad.flatten().tolist() == pytest.approx([worse] * 2, rel=close)
    assert scores["blind"].policy.grad.flatten().tolist() == pytest.approx([blind], rel=close)


def test_bpo_without_weight_is_dpo():
    scores = example()
    terms = BPO(beta=0.1, blind_weight=0)(scores)
    assert terms["blind"].tolist() == [0.0]
    sum(terms.values()).sum().backward()
    assert scores["chosen"].policy.grad.flatten().tolist() == pytest.approx([-0.1 * SIGMOID_02] * 2)
    assert scores["blind"].policy.grad.tolist() == [[0.0]]


def test_bpo_concat_is_dpo_on_two_pairs():
    objective = BPO(beta=0.1, mode="concat")
    assert objective.groups == (
        {"chosen": ScoredRow("chosen"), "rejected": ScoredRow("rejected")},
        {"chosen": ScoredRow("chosen"), "rejected": ScoredRow("blind")},
    )
    triple = example()
    first = {"chosen": triple["chosen"], "rejected": triple["rejected"]}
    second = {"chosen": triple["chosen"], "rejected": triple["blind"]}
    assert objective(first)["preference"].tolist() == pytest.approx([LOSS_02], rel=1e-13)
    assert objective(second)["preference"].tolist() == pytest.approx([LOSS_005], rel=1e-13)
    assert set(objective(second)) == {"preference"}


def test_concat_has_half_the_gradient_of_joint():
    ratios = {"chosen": [1.0, -4.0], "rejected": [-1.0, 2.0], "blind": [0.5, 7.0]}
    joint = with_log_ratios(**ratios)
    sum(BPO(mode="joint")(joint).values()).mean().backward()
    # the two examples, once as (chosen, rejected) and once as (chosen, blind): a batch of four pairs
    pairs = with_log_ratios(chosen=ratios["chosen"] * 2, rejected=ratios["rejected"] + ratios["blind"])
    BPO(mode="concat")(pairs)["preference"].mean().backward()
    chosen, worse = pairs["chosen"].policy.grad, pairs["rejected"].policy.grad
    assert torch.allclose(chosen[:2] + chosen[2:], joint["chosen"].policy.grad / 2)
    assert torch.allclose(worse[:2], joint["rejected"].policy.grad / 2)
    assert torch.allclose(worse[2:], joint["blind"].policy.grad / 2)


@PRECISIONS
def test_sft_by_token_weighs_every_token_alike(dtype: torch.dtype, close: float):
    scores = {"chosen": row([[-1.0, -2.0, -3.0], [-4.0]], dtype=dtype)}
    objective = SFT(average="token")
    terms = objective(scores)
    assert terms["nll"].tolist() == pytest.approx([2.0, 4.0], rel=close)
    # 3 tokens of mean 2 and 1 of 4: (6 + 4) / 4 tokens
    share = scores[objective.tokens_of].length
    mean = (share * terms["nll"]).sum() / share.sum()
    assert mean.item() == pytest.approx(2.5, rel=close)
    mean.backward()
    assert scores["chosen"].policy.grad[scores["chosen"].mask].tolist() == pytest.approx([-0.25] * 4, rel=close)


@PRECISIONS
def test_sft_by_sequence_weighs_every_response_alike(dtype: torch.dtype, close: float):
    scores = {"chosen": row([[-1.0, -2.0, -3.0], [-4.0]], dtype=dtype)}
    terms = SFT(average="sequence")(scores)
    assert terms["nll"].tolist() == pytest.approx([2.0, 4.0], rel=close)
    terms["nll"].mean().backward()
    gradient = scores["chosen"].policy.grad[scores["chosen"].mask].tolist()
    assert gradient == pytest.approx([-1 / 6] * 3 + [-1 / 2], rel=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins_have_exact_losses_and_gradients(dtype: torch.dtype):
    margins = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    losses = preference_loss(margins, beta=1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4, LN2])
    losses.sum().backward()
    assert margins.grad.tolist() == pytest.approx([0.0, -1.0, -0.5])


def test_small_losses_keep_their_precision():
    # ln(1 + e^-50) is about e^-50; computed as -ln(σ(50)) it would be 0
    assert negative_log_sigmoid(torch.tensor(50.0)).item() == pytest.approx(math.exp(-50), rel=1e-5)


@given(st.floats(-200, 200), st.floats(1e-3, 2))
def test_preference_loss_agrees_with_its_formula(margin: float, beta: float):
    found = preference_loss(torch.tensor(margin, dtype=torch.float64), beta).item()
    assert found == pytest.approx(math.log1p(math.exp(-beta * margin)), rel=1e-9, abs=1e-300)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1))
def test_swapping_the_pair_moves_the_loss_by_the_scaled_margin(margin: float, beta: float):
    # -ln σ(-x) - (-ln σ(x)) = x
    there, back = (preference_loss(torch.tensor(m, dtype=torch.float64), beta).item() for m in (margin, -margin))
    assert back - there == pytest.approx(beta * margin, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.inf, math.nan])
def test_beta_must_be_positive_and_finite(beta: float):
    with pytest.raises(ValidationError, match="beta"):
        DPO(beta=beta)


def test_blind_weight_is_refused_where_it_means_nothing():
    with pytest.raises(ValidationError, match="blind_weight has no meaning in mode=concat"):
        BPO(mode="concat", blind_weight=0.5)


def test_log_ratio_needs_a_reference():
    with pytest.raises(ValueError, match="needs_reference"):
        _ = row([[-1.0]]).log_ratio
