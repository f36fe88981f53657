"""Golden numbers of every objective, losses and gradients, derived by hand; most from the example in `hand_scores`.

Where ℓ(x) = ln(1 + e^-x), a flipped pair costs ℓ(-x) = ℓ(x) + x; with β = 0.1 and margin 2, x = 0.2.
"""

import math
from typing import Any

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

from mmsafe.objectives.base import Objective, ScoredRow, Scores, negative_log_sigmoid
from mmsafe.objectives.bootstrapped_po import BootstrappedPO
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.cdpo import CDPO
from mmsafe.objectives.dpo import DPO, preference_loss
from mmsafe.objectives.dpo_sft import DPOWithSFT
from mmsafe.objectives.hinge import Hinge
from mmsafe.objectives.ipo import IPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.online_dpo import OnlineDPO
from mmsafe.objectives.orpo import ORPO, log_odds
from mmsafe.objectives.robust_dpo import RobustDPO
from mmsafe.objectives.sft import SFT
from mmsafe.objectives.simpo import SimPO

LN3 = math.log(3)
# ln(1 + e^-0.1) and σ(-0.1): the anchor of mDPO at β·Δ(y_w|v) = 0.1
LOSS_01, SIGMOID_01 = 0.6443966600735709, 0.47502081252106
# dL/dlogp = -β σ(-βm) for each chosen token, the opposite for each rejected one
WORSE, BLIND, ANCHOR = 0.1 * SIGMOID_02, 0.1 * SIGMOID_005, 0.1 * SIGMOID_01
PAIR, BLIND_PAIR = ["chosen", "rejected"], ["chosen", "blind"]
# Rewards 2·(-1) and 2·(-1 - (ln 3 + 0.5)/2), so r_w - r_l - γ = ln 3: loss ln(1 + 1/3), σ(-ln 3) = 1/4
SIMPO_WORSE = -1 - (LN3 + 0.5) / 2
SIMPO = {"chosen": [[-0.5, -1.5]], "rejected": [[SIMPO_WORSE + 1, SIMPO_WORSE, SIMPO_WORSE - 1]]}
# p(y_w) = 1/2 and p(y_l) = 1/4 per token: odds 1 and 1/3, odds ratio 3, loss ln(1 + 1/3), σ(-ln 3) = 1/4
ORPO_ROWS = {"chosen": [[-LN2 / 2, -3 * LN2 / 2]], "rejected": [[-2 * LN2] * 3]}
RAGGED = {"chosen": [[-1.0, -2.0, -3.0], [-4.0]]}


def pair(loss: float, slope: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one term of a pair of two tokens each, and its opposite gradients."""
    return {"preference": [loss]}, {"chosen": [slope] * 2, "rejected": [-slope] * 2}


def bpo(weight: float) -> tuple[Any, ...]:
    terms = {"preference": [LOSS_02], "blind": [weight * LOSS_005]}
    slopes = {"chosen": [-WORSE - weight * BLIND] * 2, "rejected": [WORSE] * 2, "blind": [weight * BLIND]}
    return BPO(beta=0.1, blind_weight=weight), ["chosen", "rejected", "blind"], terms, slopes


def orpo(weight: float) -> tuple[Any, ...]:
    # d log odds / d ln p = 1/(1-p): 2 and 4/3; shared by two and by three tokens
    slopes = {"chosen": [-1 / 2 - weight / 4] * 2, "rejected": [weight * 1 / 4 * 4 / 3 / 3] * 3}
    return ORPO(weight=weight), ORPO_ROWS, {"nll": [LN2], "odds_ratio": [weight * math.log(4 / 3)]}, slopes


def dpo_with_sft(weight: float) -> tuple[Any, ...]:
    slopes = {"chosen": [-WORSE - weight / 2] * 2, "rejected": [WORSE] * 2}
    return DPOWithSFT(sft_weight=weight), PAIR, {"preference": [LOSS_02], "nll": [weight * 1.5]}, slopes


def mdpo(objective: MDPO, image: float, anchor: float, anchor_slope: float, anchor_loss: float) -> tuple[Any, ...]:
    terms = {"preference": [LOSS_02], "image": [image * LOSS_005], "anchor": [anchor * anchor_loss]}
    chosen = -WORSE - image * BLIND - anchor * anchor_slope
    slopes = {"chosen": [chosen] * 2, "rejected": [WORSE] * 2, "corrupted": [image * BLIND]}
    return objective, ["chosen", "rejected", "corrupted"], terms, slopes


GOLDEN: dict[str, tuple[Any, ...]] = {
    "dpo": (DPO(beta=0.1), PAIR, *pair(LOSS_02, -WORSE)),
    "bpo": bpo(1.0),
    "bpo-quarter": bpo(0.25),
    "bpo-0": bpo(0.0),
    "concat, first pair": (BPO(mode="concat"), PAIR, *pair(LOSS_02, -WORSE)),
    "concat, second pair": (
        *(BPO(mode="concat"), BLIND_PAIR, {"preference": [LOSS_005]}),
        {"chosen": [-BLIND] * 2, "rejected": [BLIND]},
    ),
    # (1-ε) ℓ + ε (ℓ + x) = ℓ + ε x
    "cdpo": (CDPO(label_smoothing=0.1), PAIR, *pair(LOSS_02 + 0.02, 0.1 * (0.1 - SIGMOID_02))),
    # [(1-ε) ℓ - ε (ℓ + x)] / (1-2ε) = ℓ - ε x / (1-2ε), here ε / (1-2ε) = 1/8
    "robust": (RobustDPO(label_smoothing=0.1), PAIR, *pair(LOSS_02 - 0.025, -0.1 * (SIGMOID_02 + 1 / 8))),
    "cdpo-0": (CDPO(label_smoothing=0), PAIR, *pair(LOSS_02, -WORSE)),
    "robust-0": (RobustDPO(label_smoothing=0), PAIR, *pair(LOSS_02, -WORSE)),
    "hinge": (Hinge(), PAIR, *pair(1 - 0.2, -0.1)),
    # margin of means 0.5 - (-0.5) = 1 and target 5: (1 - 5)²; each of two tokens has half of the slope 2 (1 - 5)
    "ipo": (IPO(), PAIR, *pair(16.0, -4.0)),
    # margin of sums 2: (2 - 5)²
    "ipo-sum": (IPO(log_ratio="sum"), PAIR, *pair(9.0, -6.0)),
    # target 1: the margin of means is just right
    "ipo-there": (IPO(beta=0.5), PAIR, *pair(0.0, 0.0)),
    "dpo_sft": dpo_with_sft(1.0),
    "dpo_sft-quarter": dpo_with_sft(0.25),
    "mdpo": mdpo(MDPO(), 1, 1, ANCHOR, LOSS_01),
    # the anchor at 0.1 - 0.05
    "mdpo-weights": mdpo(MDPO(image_weight=0.5, anchor_weight=2, anchor_margin=0.05), 0.5, 2, BLIND, LOSS_005),
    "online": (OnlineDPO(), PAIR, *pair(LOSS_02, -WORSE)),
    "bootstrapped": (BootstrappedPO(), PAIR, *pair(LOSS_02, -WORSE)),
    # β/|y| σ(-ln 3): 2/2 · 1/4 and 2/3 · 1/4
    "simpo": (
        *(SimPO(beta=2, gamma=0.5), SIMPO, {"preference": [math.log(4 / 3)]}),
        {"chosen": [-1 / 4] * 2, "rejected": [1 / 6] * 3},
    ),
    "orpo": orpo(1.0),
    "orpo-tenth": orpo(0.1),
    "sft": (SFT(), RAGGED, {"nll": [2.0, 4.0]}, {"chosen": [-1 / 3] * 3 + [-1.0]}),
}


def scores_of(rows: Any, dtype: torch.dtype) -> dict[str, Scores]:
    """Rows of the example by name, under the names of a pair or of mDPO, or rows that are given."""
    if isinstance(rows, dict):
        return {name: row(values, dtype=dtype) for name, values in rows.items()}
    names = ["chosen", "rejected"] if rows == BLIND_PAIR else rows
    known = example(dtype)
    known["corrupted"] = known["blind"]  # Δ(y_w|v') = 0.5
    return {name: known[source] for name, source in zip(names, rows, strict=True)}


def test_the_constants_are_what_they_say():
    for loss, sigmoid, x in [(LOSS_02, SIGMOID_02, 0.2), (LOSS_005, SIGMOID_005, 0.05), (LOSS_01, SIGMOID_01, 0.1)]:
        assert loss == pytest.approx(math.log(1 + math.exp(-x)), abs=1e-15)
        assert sigmoid == pytest.approx(1 / (1 + math.exp(x)), abs=1e-15)


@PRECISIONS
@pytest.mark.parametrize("name", GOLDEN)
def test_loss_and_gradient(name: str, dtype: torch.dtype, close: float):
    objective, rows, losses, slopes = GOLDEN[name]
    scores = scores_of(rows, dtype)
    terms = objective(scores)
    assert terms.keys() == losses.keys()
    for term, loss in losses.items():
        assert terms[term].tolist() == pytest.approx(loss, rel=close, abs=1e-300)
    sum(terms.values()).sum().backward()
    for row_name, slope in slopes.items():
        assert gradient(scores[row_name]) == pytest.approx(slope, rel=2 * close, abs=1e-300), row_name


@PRECISIONS
@pytest.mark.parametrize(
    ("average", "mean", "slopes"), [("token", 10 / 4, [-1 / 4] * 4), ("sequence", 6 / 2, [-1 / 6] * 3 + [-1 / 2])]
)
def test_sft_weighs_tokens_or_responses_alike(
    average: Any, mean: float, slopes: list[float], dtype: torch.dtype, close: float
):
    """3 tokens of mean 2 and 1 of 4: (6 + 4) / 4 tokens, or (2 + 4) / 2 responses."""
    scores, objective = scores_of(RAGGED, dtype), SFT(average=average)
    share = torch.ones(2) if objective.tokens_of is None else scores[objective.tokens_of].length
    found = (share * objective(scores)["nll"]).sum() / share.sum()
    assert found.item() == pytest.approx(mean, rel=close)
    found.backward()
    assert gradient(scores["chosen"]) == pytest.approx(slopes, rel=close)


CHOSEN, REJECTED = ScoredRow("chosen"), ScoredRow("rejected")


@pytest.mark.parametrize(
    ("objective", "groups"),
    [
        (
            BPO(mode="concat"),
            [{"chosen": CHOSEN, "rejected": REJECTED}, {"chosen": CHOSEN, "rejected": ScoredRow("blind")}],
        ),
        (MDPO(), [{"chosen": CHOSEN, "rejected": REJECTED, "corrupted": ScoredRow("chosen", "corrupted")}]),
        (BootstrappedPO(), [{"chosen": CHOSEN, "rejected": ScoredRow("weakened")}]),
    ],
    ids=["concat", "mdpo", "bootstrapped"],
)
def test_rows(objective: Objective, groups: list[Any]):
    assert list(objective.groups) == groups


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


# Where a loss is flat, bounded or not


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins_have_exact_losses_and_gradients(dtype: torch.dtype):
    margins = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    losses = preference_loss(margins, beta=1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4, LN2])
    losses.sum().backward()
    assert margins.grad.tolist() == pytest.approx([0.0, -1.0, -0.5])
    # ln(1 + e^-50) is about e^-50; computed as -ln(σ(50)) it would be 0
    assert negative_log_sigmoid(torch.tensor(50.0)).item() == pytest.approx(math.exp(-50), rel=1e-5)


@given(st.floats(-200, 200), st.floats(1e-3, 2), st.floats(0, 0.49))
def test_preference_losses_agree_with_their_formula(margin: float, beta: float, rate: float):
    """Robust DPO has the DPO loss of true labels on average."""
    there, back = (torch.tensor(m, dtype=torch.float64) for m in (margin, -margin))
    loss = math.log1p(math.exp(-beta * margin))
    assert preference_loss(there, beta).item() == pytest.approx(loss, rel=1e-9, abs=1e-300)
    robust = RobustDPO(beta=beta, label_smoothing=rate)
    mean = (1 - rate) * robust.loss(there) + rate * robust.loss(back)
    assert mean.item() == pytest.approx(loss, rel=1e-9, abs=1e-9)


def test_cdpo_stops_at_its_label_and_a_hinge_at_its_margin_and_robust_dpo_nowhere():
    # σ(βz) = 0.9 at βz = ln 9: no gradient there, and opposite ones on both sides
    scores = with_log_ratios(chosen=[9.0, 10 * math.log(9), 30.0], rejected=[0.0] * 3)
    CDPO(label_smoothing=0.1)(scores)["preference"].sum().backward()
    below, there, above = gradient(scores["chosen"])
    assert below < 0 < above
    assert there == pytest.approx(0, abs=1e-15)
    scores = with_log_ratios(chosen=[11.0, 9.0], rejected=[0.0, 0.0])
    terms = Hinge(beta=0.1)(scores)
    assert terms["preference"].tolist() == pytest.approx([0.0, 0.1])
    terms["preference"].sum().backward()
    assert gradient(scores["chosen"]) == pytest.approx([0.0, -0.1])
    assert RobustDPO(label_smoothing=0.1).loss(torch.tensor(1000.0)).item() == pytest.approx(-100 / 8)


def test_ipo_by_tokens_does_not_depend_on_lengths():
    short = {"chosen": row([[1.0]], [[0.0]]), "rejected": row([[-0.5]], [[0.0]])}
    long = {"chosen": row([[1.0] * 7], [[0.0] * 7]), "rejected": row([[-0.5] * 3], [[0.0] * 3])}
    assert IPO()(short)["preference"].item() == pytest.approx(IPO()(long)["preference"].item()) == (1.5 - 5) ** 2


@given(st.floats(1e-4, 1 - 1e-4))
def test_log_odds_agree_with_their_formula(probability: float):
    found = log_odds(torch.tensor(probability, dtype=torch.float64).log()).item()
    assert found == pytest.approx(math.log(probability / (1 - probability)), rel=1e-9, abs=1e-9)


def test_log_odds_keep_their_precision_at_both_ends():
    # 1 - e^-0.00001 is about 0.00001; computed as 1 - p it would be 2 % off in fp32
    assert log_odds(torch.tensor([-1e-5, -100.0])).tolist() == pytest.approx([math.log(1e5), -100.0], rel=1e-6)


@pytest.mark.parametrize("chosen", [0.0, -1e-9, -1.0, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1e-9, -1.0, -1e4])
def test_orpo_is_finite_where_a_response_is_certain_or_impossible(chosen: float, rejected: float):
    scores = scores_of({"chosen": [[chosen]], "rejected": [[rejected]]}, torch.float32)
    terms = ORPO()(scores)
    sum(terms.values()).sum().backward()
    values = [*(term.item() for term in terms.values()), *gradient(scores["chosen"]), *gradient(scores["rejected"])]
    assert all(math.isfinite(value) for value in values)


# Rewards, starts and options


@pytest.mark.parametrize(("objective", "rewards"), [(SimPO(beta=2), [-3.0, -8.0]), (ORPO(weight=0.5), [-0.75, -2.0])])
def test_rewards_without_a_reference_are_per_token(objective: Objective, rewards: list[float]):
    assert objective.reward(row([[-1.0, -2.0], [-4.0]])).tolist() == rewards
    empty = Scores(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3))
    assert empty.mean_log_prob.tolist() == empty.mean_log_ratio.tolist() == [0.0]


def test_simpo_margin_is_in_units_of_reward():
    even = {"chosen": row([[-1.0]]), "rejected": row([[-1.0, -1.0]])}
    assert SimPO(gamma=0)(even)["preference"].item() == pytest.approx(LN2)
    assert SimPO(gamma=LN3)(even)["preference"].item() == pytest.approx(math.log(4))  # ln(1 + e^γ)


ANCHORED = {"preference": LN2, "image": LN2 / 2, "anchor": 2 * math.log(1 + math.exp(0.05))}


@pytest.mark.parametrize(
    ("objective", "start"),
    [
        (Hinge(beta=3), {"preference": 1.0}),
        (IPO(beta=0.5), {"preference": 1.0}),
        (IPO(beta=0.1), {"preference": 25.0}),
        (MDPO(image_weight=0.5, anchor_weight=2, anchor_margin=0.05), ANCHORED),
    ],
)
def test_start(objective: Objective, start: dict[str, float]):
    assert dict(objective.start) == pytest.approx(start, rel=1e-13)


@pytest.mark.parametrize(
    ("objective", "words", "message"),
    [
        *((DPO, {"beta": beta}, "beta") for beta in (0.0, -0.1, math.inf, math.nan)),
        *(
            (cls, {"label_smoothing": rate}, "label_smoothing")
            for cls in (CDPO, RobustDPO)
            for rate in (-0.1, 0.5, 1.0)
        ),
        (BPO, {"mode": "concat", "blind_weight": 0.5}, "blind_weight has no meaning in mode=concat"),
    ],
)
def test_options_that_mean_nothing_or_the_opposite_are_refused(objective: Any, words: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        objective(**words)
