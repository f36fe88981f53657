"""Optimisers: each against its obvious oracle, what rounding does to bf16 weights, groups by part, and schedules."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu
from roots import ROOTS
from small_model import copied, of_family, small_model
from torch import nn

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Peft
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.adapters import add_lora
from mmsafe.models.family import Family, families
from mmsafe.objectives.dpo import DPO
from mmsafe.reference.reference import Frozen
from mmsafe.runs.preflight import check
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.optimizers.adafactor import Adafactor
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.adamw_8bit import AdamW8bit
from mmsafe.training.optimizers.muon import Muon
from mmsafe.training.optimizers.optimizer import Optimizer, RateByPart
from mmsafe.training.optimizers.rounding import stochastic, with_rounding

ON_CPU: list[Any] = [AdamW, AdamW8bit, Adafactor, Muon]


def built(options: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    return options.build(model, sharded=False, precision="32-true")


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def test_stochastic_rounding_takes_a_neighbour_and_is_exact_in_the_mean():
    exact = torch.cat([torch.randn(500), torch.tensor([1e-30, -3e4, 1.0])])
    draws = torch.stack([stochastic(exact, torch.Generator().manual_seed(seed)).double() for seed in range(4000)])
    bits = exact.view(torch.int32) & -65536  # towards zero
    low, high = bits.view(torch.float32).double(), (bits + 65536).view(torch.float32).double()
    assert ((draws == low) | (draws == high)).all()
    share = (exact.double() - low) / (high - low)
    error = (draws.mean(0) - exact.double()).abs() / (high - low).abs()
    assert (error <= 4.5 * (share * (1 - share) / 4000).sqrt() + 1e-12).all(), "4.5 standard errors of the mean"
    assert torch.equal(draws[:, -1], torch.ones(4000, dtype=torch.double)), "what bf16 has stays"


def test_what_is_not_finite_stays_so():
    nothing = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaNs at the end of their range
    given = torch.cat([nothing, torch.tensor([math.inf, -math.inf])])
    found = stochastic(given, torch.Generator().manual_seed(0))
    assert found[:2].isnan().all()
    assert found[2:].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("kahan", [True, False], ids=["kahan", "stochastic"])
def test_a_thousand_updates_too_small_for_bf16_add_up(kahan: bool):
    """Against the sum in fp64; rounding to the nearest loses them all. A half is 2**-8 between 1 and 2."""
    torch.manual_seed(0)
    start = torch.rand(2000) + 1
    plain, ours = (nn.Parameter(start.bfloat16()) for _ in range(2))
    rounded = with_rounding(torch.optim.SGD, kahan=kahan)([ours], lr=1.0)  # type: ignore[call-arg]
    nearest, oracle = torch.optim.SGD([plain], lr=1.0), start.bfloat16().double()
    for step in range(1000):
        update = (torch.rand(2000, generator=torch.Generator().manual_seed(step)) * 2e-4).bfloat16()
        oracle -= update.double()
        for weight, optimizer in ((plain, nearest), (ours, rounded)):
            weight.grad = update.clone()
            optimizer.step()
    assert torch.equal(plain, start.bfloat16())
    assert ours.dtype == torch.bfloat16
    error = (ours.double() - oracle).detach()
    if kahan:
        assert error.abs().max() <= 2**-8 + 2e-5, "half of the distance between two neighbours, after any number"
    else:
        assert error.std() == pytest.approx(math.sqrt(1000 * 1e-4 * 2**-7), rel=0.15), "a random walk"
        assert abs(error.mean()) < 4.5 * error.std() / math.sqrt(2000), "no drift: 4.5 standard errors"


@pytest.mark.parametrize("kind", ON_CPU)
def test_with_what_rounding_took_bf16_weights_are_trained_as_fp32_ones(kind: Any):
    """Bit for bit."""
    narrow = copied(small_model()).model.bfloat16()
    wide = copied(small_model()).model.bfloat16().float()
    optimizer, oracle = built(kind(lr=1e-3, rounding="kahan"), narrow), built(kind(lr=1e-3), wide)
    for step in range(3):
        gradients(narrow, step)
        for weight, other in zip(wide.parameters(), narrow.parameters(), strict=True):
            weight.grad = None if other.grad is None else other.grad.float()
        optimizer.step()
        oracle.step()
        assert all(w.grad is None or w.grad.dtype == torch.bfloat16 for w in narrow.parameters())
    for weight, other in zip(wide.parameters(), narrow.parameters(), strict=True):
        lost = optimizer.state[other].get("lost", 0)
        assert torch.equal((other.float().view(torch.int32) + lost).view(torch.float32), weight)
        assert (other - weight).abs().le(2**-8 * weight.abs()).all(), "and shown rounded"


def test_every_process_rounds_alike_whatever_it_draws_elsewhere_and_every_seed_otherwise():
    found = []
    for seed, dropout in ((0, 0), (0, 100), (1, 0)):
        model, _ = copied(small_model()).model.bfloat16(), torch.manual_seed(seed)
        optimizer = built(AdamW(lr=1e-3, rounding="stochastic"), model)
        for step in range(2):
            torch.rand(dropout)
            gradients(model, step)
            optimizer.step()
        found.append(model.lm_head.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_fp32_weights_are_not_rounded():
    one, other = copied(small_model()).model, copied(small_model()).model
    for model, kind in ((one, "nearest"), (other, "stochastic")):
        optimizer = built(AdamW(lr=1e-3, rounding=kind), model)  # type: ignore[arg-type]
        gradients(model, 0)
        optimizer.step()
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_muon_is_for_the_matrices_of_the_decoder_and_adamw_for_the_rest():
    ours, oracle = copied(small_model()).model, copied(small_model()).model
    optimizer = built(Muon(lr=1e-2, weight_decay=0.1, decay_norms_and_biases=False), ours)
    trained = {name: weight for name, weight in oracle.named_parameters() if weight.requires_grad}
    matrices = [w for name, w in trained.items() if "_proj.weight" in name and "language_model.layers" in name]
    rest = [w for w in trained.values() if not any(w is m for m in matrices)]
    assert len(matrices) == 7
    groups = [{"params": [w for w in rest if w.dim() == n], "weight_decay": 0.1 * (n == 2)} for n in (1, 2)]
    apart = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=1e-2),
    ]
    for step in range(3):
        gradients(ours, step)
        gradients(oracle, step)
        for each in (optimizer, *apart):
            each.step()
    assert all(map(torch.equal, ours.parameters(), oracle.parameters()))


def run(optimizer: Optimizer, steps: int = 20, **trainer: Any) -> list[dict[str, float]]:
    """Every step of a training."""
    llava, scoring, rows = copied(small_model()), SharedPrefix(), []

    class Rows:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            rows.append(metrics)

    fitted(
        llava,
        MicroWorld(size=8, image_size=24).train().examples,
        objective=DPO(),
        scoring=scoring,
        reference=Frozen().policy(llava, scoring, "32-true"),
        optimizer=optimizer,
        trainer=on_cpu(max_steps=steps, **trainer),
        loggers=[Rows()],
        batch_size=4,
    )
    return rows


def test_a_fused_step_gives_the_losses_of_a_loop():
    losses = [[row["train/loss"] for row in run(AdamW(lr=1e-3, fused=fused))] for fused in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("kind", ON_CPU)
def test_every_optimizer_learns_and_logs_its_rates(kind: Any):
    rates = RateByPart(projector=2e-3)
    rows = run(kind(lr=1e-3, lr_by_part=rates, decay_norms_and_biases=False, warmup_steps=0, schedule="constant"))
    assert rows[-1]["train/loss"] < 0.9 * rows[0]["train/loss"]
    found = {name: value for name, value in rows[0].items() if name.startswith("train/learning_rate")}
    assert found == {"train/learning_rate/language": 1e-3, "train/learning_rate/projector": 2e-3}


@pytest.mark.parametrize("method", ["none", "lora"])
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_trained_weight_has_the_rate_of_its_part(family: Family, method: Any):
    llava = of_family(family)
    add_lora(llava, Peft(method=method, rank=4, alpha=8))
    rates = {"projector": 1.0, "language": 2.0, "vision": 3.0, "adapters": 4.0}
    options = AdamW(lr=9.0, lr_by_part=RateByPart(**rates), weight_decay=0.1, decay_norms_and_biases=False)
    groups = options.groups(llava.model)
    found = {weight: group for group in groups for weight in group["params"]}
    trained = {name: weight for name, weight in llava.model.named_parameters() if weight.requires_grad}
    assert len(found) == len(trained) == sum(len(group["params"]) for group in groups)
    for name, weight in trained.items():
        part = family.parts.of(name)
        expected = rates["adapters" if "lora_" in name else "projector" if part == "connector" else part]
        assert found[weight]["lr"] == expected, name
        assert found[weight]["weight_decay"] == (0.1 if weight.dim() > 1 else 0), name
    assert {group["lr"] for group in groups} == ({1.0, 4.0} if method == "lora" else {1.0, 2.0})


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        (
            {"schedule": "cosine", "min_lr_ratio": 0.1, "warmup_steps": 10},
            lambda step: step / 10 if step < 10 else 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2,
        ),
        (
            {"schedule": "wsd", "min_lr_ratio": 0.2, "warmup_steps": 0.1, "decay_steps": 0.3},
            lambda step: (
                0.2 + 0.8 * step / 10
                if step < 10
                else 1
                if step < 70
                else 0.2 + 0.8 * (1 + math.cos(math.pi * (step - 70) / 30)) / 2
            ),
        ),
    ],
    ids=["cosine-with-a-floor", "wsd"],
)
def test_schedules_by_hand(options: Any, factors: Any):
    given = AdamW(lr=2.0, lr_by_part=RateByPart(), **options)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (2.0, 0.5)])
    schedule, rates = given.scheduled(optimizer, 100), []
    for _ in range(101):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert [rate for rate, _ in rates] == pytest.approx([2 * factors(step) for step in range(101)])
    assert [rate / 4 for rate, _ in rates] == pytest.approx([rate for _, rate in rates]), "all parts alike"
    assert all(abs(a - b) < 0.25 for (a, _), (b, _) in pairwise(rates))


def test_a_missing_package_and_a_missing_gpu_are_told(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="only CUDA has pages; use optimizer=adamw_8bit"):
        built(AdamW8bit(lr=1e-3, paged=True), small_model().model)
    monkeypatch.setattr("mmsafe.training.optimizers.adamw_8bit.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"optimizer=adamw_8bit: bitsandbytes is not installed; run pip install 'mmsafe"
    ):
        check("train", ROOTS["train"], ["optimizer=adamw_8bit"])
