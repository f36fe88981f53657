"""Golden numbers of the objectives without a reference, at probabilities whose odds are whole numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hand_scores import PRECISIONS, gradient, row
from hypothesis import given
from hypothesis import strategies as st

from mmsafe.objectives.base import Scores
from mmsafe.objectives.orpo import ORPO, log_odds
from mmsafe.objectives.simpo import SimPO

LN2, LN3 = math.log(2), math.log(3)


@PRECISIONS
def test_simpo(dtype: torch.dtype, close: float):
    # rewards 2·(-1) and 2·(-1 - (ln 3 + 0.5)/2), so r_w - r_l - γ = ln 3: loss ln(1 + 1/3), σ(-ln 3) = 1/4
    worse = -1 - (LN3 + 0.5) / 2
    scores = {
        "chosen": row([[-0.5, -1.5]], dtype=dtype),
        "rejected": row([[worse + 1, worse, worse - 1]], dtype=dtype),
    }
    terms = SimPO(beta=2, gamma=0.5)(scores)
    assert terms["preference"].tolist() == pytest.approx([math.log(4 / 3)], rel=close)
    terms["preference"].sum().backward()
    # β/|y| σ(-ln 3): 2/2 · 1/4 and 2/3 · 1/4
    assert gradient(scores["chosen"]) == pytest.approx([-1 / 4] * 2, rel=close)
    assert gradient(scores["rejected"]) == pytest.approx([1 / 6] * 3, rel=close)


def test_simpo_margin_is_in_units_of_reward():
    even = {"chosen": row([[-1.0]]), "rejected": row([[-1.0, -1.0]])}
    assert SimPO(gamma=0)(even)["preference"].item() == pytest.approx(LN2)
    assert SimPO(gamma=LN3)(even)["preference"].item() == pytest.approx(math.log(4))  # ln(1 + e^γ)


@PRECISIONS
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_orpo(weight: float, dtype: torch.dtype, close: float):
    # p(y_w) = 1/2 and p(y_l) = 1/4 per token: odds 1 and 1/3, odds ratio 3, loss ln(1 + 1/3), σ(-ln 3) = 1/4
    scores = {
        "chosen": row([[-LN2 / 2, -3 * LN2 / 2]], dtype=dtype),
        "rejected": row([[-2 * LN2] * 3], dtype=dtype),
    }
    terms = ORPO(weight=weight)(scores)
    assert terms["nll"].tolist() == pytest.approx([LN2], rel=close)
    assert terms["odds_ratio"].tolist() == pytest.approx([weight * math.log(4 / 3)], rel=close)
    sum(terms.values()).sum().backward()
    # d log odds / d ln p = 1/(1-p): 2 and 4/3; shared by two and by three tokens
    assert gradient(scores["chosen"]) == pytest.approx([-1 / 2 - weight * 1 / 4 * 2 / 2] * 2, rel=close)
    assert gradient(scores["rejected"]) == pytest.approx([weight * 1 / 4 * 4 / 3 / 3] * 3, rel=close)


def test_rewards_are_per_token():
    score = row([[-1.0, -2.0], [-4.0]])
    assert SimPO(beta=2).reward(score).tolist() == [-3.0, -8.0]
    assert ORPO(weight=0.5).reward(score).tolist() == [-0.75, -2.0]


@given(st.floats(1e-4, 1 - 1e-4))
def test_log_odds_agree_with_their_formula(probability: float):
    found = log_odds(torch.tensor(probability, dtype=torch.float64).log()).item()
    assert found == pytest.approx(math.log(probability / (1 - probability)), rel=1e-9, abs=1e-9)


def test_log_odds_keep_their_precision_at_both_ends():
    found = log_odds(torch.tensor([-1e-5, -100.0]))
    # 1 - e^-0.00001 is about 0.00001; computed as 1 - p it would be 2 % off in fp32
    assert found.tolist() == pytest.approx([math.log(1e5), -100.0], rel=1e-6)


@pytest.mark.parametrize("chosen", [0.0, -1e-9, -1.0, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1e-9, -1.0, -1e4])
def test_orpo_is_finite_where_a_response_is_certain_or_impossible(chosen: float, rejected: float):
    scores = {"chosen": row([[chosen]], dtype=torch.float32), "rejected": row([[rejected]], dtype=torch.float32)}
    terms = ORPO()(scores)
    assert all(term.isfinite().all() for term in terms.values())
    sum(terms.values()).sum().backward()
    assert all(math.isfinite(value) for score in scores.values() for value in gradient(score))


def test_a_response_without_tokens_has_mean_zero():
    empty = Scores(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3))
    assert empty.mean_log_prob.tolist() == empty.mean_log_ratio.tolist() == [0.0]
