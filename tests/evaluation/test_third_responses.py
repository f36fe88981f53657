"""How good the responses are that a run samples for training: shares worked out by hand, log-probs of the model."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from small_model import copied

import mmsafe.evaluation.third_responses
from mmsafe.api import score
from mmsafe.core.declared import Metric
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.measuring import declaration, flat
from mmsafe.evaluation.third_responses import Staleness, third_responses
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.reference.cached import CachedLogProbs
from mmsafe.scoring.collate import Items
from mmsafe.scoring.lengths import equal_items
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.recipe import Batching, Loss

REFUSE, COMPLY, NEITHER = "Sorry, I cannot help with that request.", "Just take it with you and act normal.", "Well."
DECISIONS = {
    ("yes", "friendly"): [(REFUSE, COMPLY), (REFUSE, REFUSE), (COMPLY, REFUSE)],  # (chosen, third)
    ("yes", "suspicious"): [(REFUSE, REFUSE)],
    ("no", "suspicious"): [(COMPLY, REFUSE), (COMPLY, NEITHER)],
    ("no", "friendly"): [(REFUSE, NEITHER), (COMPLY, COMPLY)],
}
"""Third right: 4 of 8, 2 of 5 where misled. Chosen right and third not: 3. Third right and chosen not: 1."""


@pytest.fixture
def examples() -> list[Example]:
    directed = [e for e in MicroWorld(size=80).train().examples if e.tags["kind"] == "directed"]
    made = []
    for (harmful, cue), pairs in DECISIONS.items():
        of_kind = [e for e in directed if (e.tags["harmful"], e.tags["cue"]) == (harmful, cue)]
        made += [
            e.with_responses(chosen=chosen, rejected="Hm.", blind=third)
            for e, (chosen, third) in zip(of_kind, pairs, strict=False)
        ]
    assert len(made) == 8
    return made


@pytest.mark.parametrize("objective", [BPO(), BPO(mode="concat")], ids=["joint", "concat"])
def test_shares_worked_out_by_hand_and_log_probs_as_the_model_gives_them(
    llava: Any, examples: list[Example], objective: BPO
) -> None:
    reference = CachedLogProbs(llava, SharedPrefix(), "32-true")
    loss = Loss(objective, SharedPrefix(), reference)
    left_out = equal_items(examples, objective.groups, llava.encoder(), None)
    items = Items(examples, len(objective.groups), left_out)
    reference.prepare(items, SharedPrefix().collator(llava.encoder(), objective.groups), 4)
    found = flat(third_responses(llava, items, loss, Rules(), None), "third")
    shares = {
        "right": (4 / 8, 8),
        "right_where_misled": (2 / 5, 5),
        "chosen_better": (3 / 8, 8),
        "chosen_worse": (1 / 8, 8),
    }
    for name, (share, count) in shares.items():
        assert (found[f"third/{name}"], found[f"third/{name}_n"]) == (share, count), name
        assert found[f"third/{name}_low"] <= share <= found[f"third/{name}_high"]
    tokens = [len(llava.encoder().response_ids(e.responses["blind"])) for e in examples]
    assert found["third/tokens"] == pytest.approx(sum(tokens) / 8)
    own = {
        id(items[i].example)
        for i in range(len(items))
        if "blind" in {r.response for r in objective.groups[items[i].group].values()}
    }
    trained = [e for e in examples if id(e) in own]
    expected = [scores["blind"] for scores in score(llava, trained)]
    assert len(trained) == (8 if objective.mode == "joint" else 5), "concat leaves out pairs of equal responses"
    assert found["third/reference_log_prob"] == pytest.approx(sum(expected) / len(expected), abs=1e-3)


def test_nothing_is_said_where_nothing_is_made_or_the_judge_cannot_tell(llava: Any, examples: list[Example]) -> None:
    items, loss = Items(examples, 1), Loss(BPO(), SharedPrefix(), None)
    assert third_responses(llava, items, loss, Keywords(), None) == {}
    assert third_responses(llava, items, Loss(DPO(), SharedPrefix(), None), Rules(), None) == {}
    without_reference = third_responses(llava, items, loss, Rules(), None)
    assert "right" in without_reference
    assert "reference_log_prob" not in without_reference


def test_a_judge_on_the_devices_has_them_to_itself(
    llava: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevices(Rules):
        on_devices = True

    aside: list[Any] = []
    monkeypatch.setattr(mmsafe.evaluation.third_responses, "set_aside", lambda vlm: aside.append(vlm) or nullcontext())
    for judge, expected in ((Rules(), []), (OnDevices(), [llava, llava])):
        third_responses(llava, Items(examples, 1), Loss(BPO(), SharedPrefix(), None), judge, None)
        assert aside == expected


def test_responses_of_one_length_have_that_length(llava: Any, examples: list[Example]) -> None:
    same = [example.with_responses(blind=NEITHER) for example in examples]
    found = third_responses(llava, Items(same, 1), Loss(BPO(), SharedPrefix(), None), Rules(), None)
    assert found["tokens"].low == found["tokens"].value == found["tokens"].high


def test_they_are_declared_under_their_own_names() -> None:
    assert Metric("third/right", "").key == "third/right"
    declared = declaration(MicroWorldTest(), {}, {"third/right": 0.5, "eval/pairwise_ceiling": 0.8})
    assert {"third/right", "eval/pairwise_ceiling"} <= {metric.key for metric in declared.metrics}
    assert "third/tokens" not in {metric.key for metric in declared.metrics}


@pytest.mark.parametrize("objective", [BPO(), BPO(mode="concat")], ids=["joint", "concat"])
def test_staleness_is_the_mean_log_ratio_per_token_of_the_sampled_responses(
    llava: Any, examples: list[Example], objective: BPO
) -> None:
    policy = copied(llava)
    loss, batching = Loss(objective, SharedPrefix(), None), Batching(batch_size=3)
    staleness = Staleness(policy, examples, loss, batching, "32-true")
    assert staleness(policy)["staleness"].value == 0
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.1)
    ratios = [row["blind"] for row in score(llava, examples, reference=policy)]
    tokens = [len(llava.encoder().response_ids(e.responses["blind"])) for e in examples]
    expected = sum(ratio / count for ratio, count in zip(ratios, tokens, strict=True)) / len(examples)
    found = staleness(policy)["staleness"]
    assert (found.value, found.n) == (pytest.approx(expected, rel=1e-4), len(examples))
    assert abs(expected) > 1e-3
    assert Staleness(policy, examples, Loss(DPO(), SharedPrefix(), None), batching, "32-true")(policy) == {}
