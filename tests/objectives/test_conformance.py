"""What every objective of `conf/objective/` must do, found there by globbing: a new file is tested when it appears."""

import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import mmsafe.objectives
from mmsafe.core.config import conf_dir, typed
from mmsafe.core.options import options
from mmsafe.objectives.base import GENERATED, Objective, Scores

NAMES = sorted(path.stem for path in (conf_dir() / "objective").glob("*.yaml"))
BATCH, TIME = 5, 7


@options
class Root:
    objective: Objective


@cache
def configured(*overrides: str) -> Objective:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", list(overrides))
    return typed(OmegaConf.create({"objective": cfg.objective}), Root).objective


def variants(name: str) -> list[tuple[str, ...]]:
    """The objective as configured, and with every value of every option that has a list of values."""
    chosen = (f"objective={name}",)
    objective = configured(*chosen)
    found = [chosen]
    for option, field in type(objective).__pydantic_fields__.items():
        if get_origin(field.annotation) is Literal:
            others = [value for value in get_args(field.annotation) if value != getattr(objective, option)]
            found += [(*chosen, f"objective.{option}={value}") for value in others]
    return found


CASES = [case for name in NAMES for case in variants(name)]
every_objective = pytest.mark.parametrize("objective", [configured(*case) for case in CASES], ids=map(" ".join, CASES))


def random_scores(objective: Objective, *, equal: bool = False, seed: int = 0) -> dict[str, Scores]:
    """Log-probs such as a scorer gives: fp32, right-padded, zero outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in objective.groups[0]:
        length = torch.randint(1, TIME, (BATCH, 1), generator=generator)
        mask = torch.arange(TIME) < length
        policy, reference = (-3 * torch.rand(BATCH, TIME, generator=generator) * mask for _ in range(2))
        reference = policy.clone() if equal else reference
        found[name] = Scores(policy.requires_grad_(), mask, reference if objective.needs_reference else None)
    return found


def total(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([term.mean() for term in terms.values()]).sum()


def indexed(scores: Mapping[str, Scores], order: Any) -> dict[str, Scores]:
    return {name: Scores(*(None if part is None else part[order] for part in s)) for name, s in scores.items()}


def test_there_are_objectives():
    assert {"sft", "dpo", "bpo"} <= set(NAMES)


@every_objective
def test_groups_share_their_row_names_and_need_an_image_if_a_row_does(objective: Objective):
    names = [set(group) for group in objective.groups]
    assert names[0]
    assert all(other == names[0] for other in names)
    for group in objective.groups:
        assert len({row.label for row in group.values()}) == len(group), "metrics tell the rows apart"
    rows = [row for group in objective.groups for row in group.values()]
    assert {row.image for row in rows} <= {"real", "none", "corrupted"}
    assert objective.responses == {row.response for row in rows}
    assert objective.needs_image == any(row.image != "real" or row.response in GENERATED for row in rows)


@every_objective
def test_terms_are_one_finite_number_per_item_whatever_the_order_and_padding(objective: Objective):
    scores = random_scores(objective)
    before = {name: score.policy.detach().clone() for name, score in scores.items()}
    order = torch.tensor([3, 0, 4, 2, 1])
    wider = {
        name: Scores(*(None if part is None else torch.nn.functional.pad(part, (0, 3)) for part in s))
        for name, s in scores.items()
    }
    terms, permuted, padded = objective(scores), objective(indexed(scores, order)), objective(wider)
    assert terms
    for name, term in terms.items():
        assert name.isidentifier()
        assert term.shape == (BATCH,)
        assert term.dtype == torch.float32
        assert term.isfinite().all()
        assert torch.allclose(permuted[name], term[order], atol=1e-6)
        assert torch.allclose(padded[name], term, atol=1e-6)
    assert all(torch.equal(scores[name].policy, policy) for name, policy in before.items()), "scores are not changed"


@every_objective
@pytest.mark.parametrize("equal", [True, False], ids=["start", "later"])
def test_gradients_reach_every_response_token_of_every_row(objective: Objective, equal: bool):
    """At the start no pair is satisfied; later, a hinge still widens margins as small as those that are drawn here."""
    scores = random_scores(objective, equal=equal)
    total(objective(scores)).backward()
    for name, score in scores.items():
        assert score.policy.grad is not None, name
        assert score.policy.grad.isfinite().all(), name
        assert (score.policy.grad[score.mask] != 0).all(), name


@every_objective
def test_following_the_gradient_lowers_the_loss(objective: Objective):
    scores = random_scores(objective)
    before = total(objective(scores))
    before.backward()
    moved = {n: s._replace(policy=s.policy.detach() - 0.1 * s.policy.grad * s.mask) for n, s in scores.items()}
    assert total(objective(moved)) < before


@every_objective
def test_start_values_hold_while_policy_and_reference_are_equal(objective: Objective):
    terms = objective(random_scores(objective, equal=True))
    assert set(objective.start) <= set(terms)
    assert not objective.needs_reference or objective.start, "a reference makes a start value known"
    for name, value in objective.start.items():
        assert terms[name].tolist() == pytest.approx([value] * BATCH, abs=1e-6)


@every_objective
def test_rewards_are_one_per_item_and_none_has_been_gained_at_the_start(objective: Objective):
    rewards = [objective.reward(score) for score in random_scores(objective).values()]
    assert all(reward is None for reward in rewards) or all(reward.shape == (BATCH,) for reward in rewards)
    if objective.needs_reference:
        started = [objective.reward(score) for score in random_scores(objective, equal=True).values()]
        assert all(reward is None or not reward.any() for reward in started)


@every_objective
def test_the_reference_is_read_if_and_only_if_it_is_declared(objective: Objective):
    scores = random_scores(objective)
    unknown = {n: s._replace(reference=torch.full_like(s.policy.detach(), torch.nan)) for n, s in scores.items()}
    terms = objective(unknown)
    if objective.needs_reference:
        assert any(term.isnan().all() for term in terms.values())
        without = {name: score._replace(reference=None) for name, score in scores.items()}
        with pytest.raises(ValueError, match="reference"):
            objective(without)
    else:
        for name, term in objective(scores).items():
            assert torch.equal(terms[name], term)


def test_an_objective_imports_tensors_for_typing_and_nothing_else():
    """Its config is read without torch, and without the rooms above."""
    modules = sorted({type(configured(f"objective={name}")).__module__ for name in NAMES})
    code = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "transformers"} & set(loaded)
    ours = {name for name in loaded if name.startswith("mmsafe.")}
    assert {".".join(name.split(".")[:2]) for name in ours} == {"mmsafe.core", "mmsafe.objectives"}
    assert {name for name in ours if name.startswith("mmsafe.core.")} == {"mmsafe.core.options"}
    for path in Path(mmsafe.objectives.__file__).parent.glob("*.py"):
        typed_only = path.read_text().replace("if TYPE_CHECKING:\n    from torch import Tensor\n", "")
        assert not re.search(r"^ *(import|from) torch", typed_only, re.MULTILINE), path.name
