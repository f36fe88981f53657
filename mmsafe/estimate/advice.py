"""What to change so that a training step fits: every change is estimated, none is a guess."""

from dataclasses import dataclass, replace
from typing import Any

from mmsafe.estimate.memory import MemoryEstimate, estimate
from mmsafe.estimate.plan import MemoryPlan, Shape
from mmsafe.training.optimizers.adamw_8bit import AdamW8bit

PAPER_TEXT = 192
"""Text tokens of the paper's examples: 768 with the image (arXiv 2503.14189, released code)."""
EIGHT_BIT = "optimizer=adamw_8bit optimizer.rounding=stochastic"
IN_EIGHT_BITS = AdamW8bit(lr=1e-6, rounding="stochastic")
NOTABLE = 0.99
"""A change that leaves more of the memory than this is not worth a line."""


@dataclass(frozen=True)
class Advice:
    """Overrides to add, what they cost, and the memory of a step with them."""

    overrides: str
    note: str
    plan: MemoryPlan
    estimate: MemoryEstimate


def free_of_charge(shape: Shape, plan: MemoryPlan, *, checkpoints: bool) -> list[Advice]:
    """Changes that leave the result as it is, each on top of those before it."""
    dense = plan.scoring == "padded" and plan.attention != "flash_attention_2"
    kept = checkpoints and not plan.gradient_checkpointing
    changes: tuple[tuple[bool, str, str, dict[str, Any]], ...] = (
        (plan.reference == "frozen", "reference=cached", "one pass before training in place of a second model",
         {"reference": "cached"}),
        (dense, "scoring=shared_prefix", "every prompt once", {"scoring": "shared_prefix"}),
        (kept, "model.gradient_checkpointing=true", "about a third more time", {"gradient_checkpointing": True}),
    )  # fmt: skip
    advised, before = [], estimate(shape, plan)
    for _, overrides, note, change in filter(lambda row: row[0], changes):
        advice = Advice(overrides, note, changed := replace(plan, **change), after := estimate(shape, changed))
        forward = (memory.at("end of forward") for memory in (after, before))  # counts once a price is paid for states
        if after.peak < NOTABLE * before.peak or next(forward) < NOTABLE * next(forward):
            advised.append(advice)
            plan, before = changed, after
    return advised


def alternatives(shape: Shape, plan: MemoryPlan, *, global_batch: bool) -> list[Advice]:
    """Changes with a price, each one alone; a batch is accumulated by hand unless `global_batch` is set."""
    full = plan.peft == "none" and plan.train_language and not plan.train_vision
    full, shards = full and plan.optimizer.rounding == "nearest", plan.optimizer.works_on_shards
    several = shards and plan.devices > 1
    single, one_device = plan.dtype == "float32" and plan.on_gpu, plan.strategy in ("auto", "ddp")
    lora, half = {"peft": "lora", "lora_rank": 128}, {"dtype": "bfloat16"}
    steps, length = plan.accumulate * plan.batch_size, shape.image_tokens + PAPER_TEXT
    response, split = min(plan.response, PAPER_TEXT // 2), f"split over {plan.devices} GPUs"
    accumulated = "" if global_batch else f" trainer.accumulate_grad_batches={steps}"
    offload = "deepspeed_zero3_offload"
    changes: tuple[tuple[bool, str, str, dict[str, Any]], ...] = (
        (full, "peft=lora", "trains adapters only", lora),
        (full and single, "peft=lora model.dtype=bfloat16", "and keeps the frozen weights in half precision",
         lora | half),
        (full and plan.on_gpu and one_device, "peft=qlora model.dtype=bfloat16",
         "and holds the language model in 4 bits", lora | half | {"peft": "qlora"}),
        (full and plan.on_gpu and one_device, f"{EIGHT_BIT} model.dtype=bfloat16",
         "all weights in bf16, their moments in 8 bits", {"dtype": "bfloat16", "optimizer": IN_EIGHT_BITS}),
        (several and plan.stage < 2, "strategy=deepspeed_zero2", split, {"strategy": "deepspeed_zero2"}),
        (several and plan.stage < 3, "strategy=deepspeed_zero3", split, {"strategy": "deepspeed_zero3"}),
        (shards and plan.on_gpu and plan.strategy != offload, f"strategy={offload}",
         "slow: states in the host's memory",
         {"strategy": offload}),
        (plan.batch_size > 1, f"data.batch_size=1{accumulated}", "slower, the same gradient",
         {"batch_size": 1, "accumulate": steps}),
        (plan.prompt + plan.response > length, f"lengths.max_length={length}", "clips responses, drops long prompts",
         {"prompt": length - response, "response": response}),
        (single and plan.precision == "32-true", "trainer.precision=bf16-mixed",
         "fp32 weights, half-precision activations", {"precision": "bf16-mixed"}),
    )  # fmt: skip
    peak = estimate(shape, plan).peak
    tried = [(overrides, note, replace(plan, **change)) for applies, overrides, note, change in changes if applies]
    advised = [Advice(overrides, note, changed, estimate(shape, changed)) for overrides, note, changed in tried]
    return [advice for advice in advised if advice.estimate.peak < NOTABLE * peak]
