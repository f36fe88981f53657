"""The memory estimator against numbers worked out by hand."""

from dataclasses import replace

import pytest

from mmsafe.estimate.activations import CHUNK, activations
from mmsafe.estimate.advice import alternatives, free_of_charge
from mmsafe.estimate.memory import MemoryEstimate, estimate
from mmsafe.estimate.plan import MemoryPlan, Shape
from mmsafe.estimate.shape import shape_of
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.scoring import log_probs
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.adamw_8bit import AdamW8bit
from mmsafe.training.optimizers.muon import Muon
from mmsafe.training.optimizers.optimizer import Optimizer

BPO_7B = MemoryPlan(
    batch_size=1, responses=(3,), prompt=640, response=64, precision="bf16-mixed", gradient_checkpointing=True
)
# By hand. Tower, CLIP-L at 336 pixels: patches 3·14²·1024, class token 1024, positions 577·1024, two norms of 2·1024;
# 24 layers of four 1024² + 1024 projections, an MLP of 1024·4096 + 4096 and 4096·1024 + 1024, two norms.
TOWER = 3 * 14**2 * 1024 + 1024 + 577 * 1024 + 4 * 1024
TOWER += 24 * (4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024)
TRAINED_7B = 7_063_427_072 - TOWER


def llava15(size: str) -> Shape:
    found = shape_of(PretrainedLlava(path=f"llava-hf/llava-1.5-{size}-hf"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def large() -> Shape:
    return llava15("7b")


def part(found: MemoryEstimate, name: str, moment: str | None = None) -> float:
    return found.moments[moment or found.moment].get(name, 0)


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimiser"),
    [
        ("auto", 4, 4, 8),  # fp32 weights under autocast; m and v
        ("ddp", 4, 4, 8),
        ("fsdp", 4 / 8, 4 / 8, 8 / 8),
        ("deepspeed_zero1", 2, 2, 12 / 8),  # the model in half precision; fp32 weights, m and v in the optimiser
        ("deepspeed_zero2", 2, 2 / 8, 12 / 8),
        ("deepspeed_zero3", 2 / 8, 2 / 8, 12 / 8),
        ("deepspeed_zero3_offload", 0, 0, 0),
    ],
)
def test_states_of_7b_on_eight_gpus(large: Shape, strategy: str, weights: float, gradients: float, optimiser: float):
    found = estimate(large, replace(BPO_7B, strategy=strategy, devices=8))
    assert part(found, "weights", "optimiser step") == 7_063_427_072 * weights
    assert part(found, "gradients", "optimiser step") == TRAINED_7B * gradients
    assert part(found, "optimiser", "optimiser step") == TRAINED_7B * optimiser


def test_offloaded_states_are_on_the_host(large: Shape):
    plan = replace(BPO_7B, strategy="deepspeed_zero3_offload", devices=8)
    everything = 1.5 * (2 * 7_063_427_072 + (4 + 12) * TRAINED_7B)
    assert estimate(large, plan).host == everything
    assert estimate(large, replace(plan, devices_per_node=4)).host == everything / 2
    assert estimate(large, replace(plan, strategy="deepspeed_zero3")).host == 0


def test_full_training_of_7b_on_one_gpu_is_not_for_80_gib(large: Shape):
    found = estimate(large, BPO_7B)
    states = 4 * 7_063_427_072 + (4 + 8) * TRAINED_7B
    assert found.peak > states > 80 * 2**30
    loops = replace(BPO_7B, optimizer=AdamW(lr=1, fused=False))  # √v of all weights at a time
    assert sum(estimate(large, loops).moments["optimiser step"].values()) == states + 4 * TRAINED_7B


@pytest.mark.parametrize(
    ("optimizer", "state"),
    [
        (AdamW8bit(lr=1, rounding="stochastic"), 2 + 8 / 256),
        (AdamW8bit(lr=1, rounding="kahan", paged=True), 2 + 8 / 256 + 2),
        (AdamW(lr=1), 2 * 2),
        (AdamW(lr=1, rounding="stochastic"), 2 * 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_full_training_of_7b_in_bf16_weights_by_each_optimiser(large: Shape, optimizer: Optimizer, state: float):
    """2 bytes a weight, 2 of gradients, and the optimiser's; with fp32 moments it needs more than one card."""
    found = estimate(large, replace(BPO_7B, dtype="bfloat16", optimizer=optimizer))
    update = 16 * 32_064 * 4096 if optimizer.rounding != "nearest" else 2 * 2 * 32_064 * 4096
    expected = 2 * 7_063_427_072 + (2 + state) * TRAINED_7B + update
    assert sum(found.moments["optimiser step"].values()) == pytest.approx(expected, rel=1e-9)
    assert (found.peak < 60 * 2**30) == (state < 5)


def test_muon_keeps_one_moment_of_a_matrix_and_two_of_the_rest(large: Shape):
    found = estimate(large, replace(BPO_7B, optimizer=Muon(lr=1)))
    assert part(found, "optimiser") == pytest.approx(4 * large.matrices + 8 * (TRAINED_7B - large.matrices))


def test_a_frozen_reference_shares_the_tower_unless_that_is_trained(large: Shape):
    frozen = replace(BPO_7B, reference="frozen")
    assert part(estimate(large, frozen), "reference") == 4 * TRAINED_7B
    assert part(estimate(large, replace(frozen, train_vision=True)), "reference") == 4 * 7_063_427_072
    assert part(estimate(large, BPO_7B), "reference") == 0


def test_quantised_matrices_take_half_a_byte(large: Shape):
    plan = replace(BPO_7B, peft="qlora", lora_rank=64, dtype="bfloat16", train_projector=False)
    rest, lora = 7_063_427_072 - large.matrices, 159_907_840
    assert part(estimate(large, plan), "weights") == large.matrices * 4.127 / 8 + 2 * rest + 4 * lora


def test_lengths_of_a_packed_and_a_padded_batch():
    packed = MemoryPlan(batch_size=2, responses=(3,), prompt=620, response=70)
    assert (packed.lines, packed.time, packed.targets) == (2, 832, 420)  # 620 + 3 · 70 = 830, up to a multiple of 8
    padded = replace(packed, scoring="padded")
    assert (padded.lines, padded.time, padded.targets) == (6, 690, 420)
    two_views = replace(packed, responses=(2, 1))
    assert (two_views.lines, two_views.time) == (4, 760)


def test_activations_of_a_checkpointed_7b(large: Shape):
    packed = activations(large, BPO_7B)
    inputs = 32 * 832 * 4096 * 4  # one fp32 residual stream per layer
    norm = 832 * 4096 * (4 + 4)
    projector = 576 * (1024 + 4096 + 4096) * 2
    assert packed == inputs + norm + projector + 832**2
    assert CHUNK == log_probs.CHUNK


def test_one_layer_of_7b_under_autocast(large: Shape):
    full = replace(BPO_7B, gradient_checkpointing=False)
    outside = activations(large, BPO_7B) - 32 * 832 * 4096 * 4 - 832**2
    a_layer = (activations(large, full) - outside) / 32
    norms = 2 * 4096 * (4 + 4)
    half = (5 * 4096 + 4 * 4096 + 4 * 11008) * 2  # inputs; q, k, v and the result; SwiGLU
    assert a_layer == 832 * (norms + half + 32 * 4) + 832**2 * 2


def test_advice_is_ordered_and_true(large: Shape):
    plan = replace(BPO_7B, batch_size=4, devices=8, reference="frozen", scoring="padded", gradient_checkpointing=False)
    free = free_of_charge(large, plan, checkpoints=True)
    names = [advice.overrides for advice in free]
    assert names == ["reference=cached", "scoring=shared_prefix", "model.gradient_checkpointing=true"]
    peaks = [estimate(large, plan).peak, *(advice.estimate.peak for advice in free)]
    assert peaks == sorted(peaks, reverse=True)
    found = [advice.overrides for advice in alternatives(large, free[-1].plan, global_batch=False)]
    adapters = ["peft=lora", "peft=lora model.dtype=bfloat16", "peft=qlora model.dtype=bfloat16"]
    eight_bit = "optimizer=adamw_8bit optimizer.rounding=stochastic model.dtype=bfloat16"
    order = [*adapters, eight_bit, "strategy=deepspeed_zero2", "strategy=deepspeed_zero3"]
    smaller = "data.batch_size=1 trainer.accumulate_grad_batches=4"
    assert found == [*order, "strategy=deepspeed_zero3_offload", smaller]
    crowded = replace(plan, strategy="deepspeed_zero3", reference="cached", precision="32-true")
    found = [advice.overrides for advice in alternatives(large, crowded, global_batch=False)]
    more = [smaller, "trainer.precision=bf16-mixed"]
    assert found[-2:] == more
    assert not free_of_charge(large, BPO_7B, checkpoints=True)
