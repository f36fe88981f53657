"""What to change so that a training step fits: every change is estimated, none is a guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mmsafe.estimate.memory import MemoryEstimate, estimate
from mmsafe.estimate.plan import MemoryPlan, Shape

PAPER_TEXT = 192
"""Text tokens of the paper's examples: 768 with the image (arXiv 2503.14189, released code)."""
LORA_RANK = 128
"""Of `peft=lora` and `peft=qlora`."""
NOTABLE = 0.99
"""A change that leaves more of the memory than this is not worth a line."""
FORWARD = "end of forward"


@dataclass(frozen=True)
class Advice:
    """Overrides to add, what they cost, and the memory of a step with them."""

    overrides: str
    note: str
    plan: MemoryPlan
    estimate: MemoryEstimate


Change = tuple[str, str, dict[str, Any]]


def free_of_charge(shape: Shape, plan: MemoryPlan, *, checkpoints: bool) -> list[Advice]:
    """Changes that leave the result as it is, each on top of those before it."""
    found, before = [], estimate(shape, plan)
    for overrides, note, change in _free(plan, checkpoints):
        tried = replace(plan, **change)
        after = estimate(shape, tried)
        forward = (after.at(FORWARD), before.at(FORWARD))  # counts too once a price is paid for the states
        if after.peak < NOTABLE * before.peak or forward[0] < NOTABLE * forward[1]:
            plan, before = tried, after
            found.append(Advice(overrides, note, plan, after))
    return found


def alternatives(shape: Shape, plan: MemoryPlan) -> list[Advice]:
    """Changes with a price, each one alone."""
    peak = estimate(shape, plan).peak
    tried = [(overrides, note, replace(plan, **change)) for overrides, note, change in _priced(shape, plan)]
    found = [Advice(overrides, note, changed, estimate(shape, changed)) for overrides, note, changed in tried]
    return [advice for advice in found if advice.estimate.peak < NOTABLE * peak]


def _free(plan: MemoryPlan, checkpoints: bool) -> Iterator[Change]:
    if plan.reference == "frozen":
        yield "reference=cached", "one pass before training in place of a second model", {"reference": "cached"}
    if plan.scoring == "padded" and plan.attention != "flash_attention_2":
        yield "scoring=shared_prefix", "every prompt once", {"scoring": "shared_prefix"}
    if checkpoints and not plan.gradient_checkpointing:
        change = {"gradient_checkpointing": True}
        yield "model.gradient_checkpointing=true", "about a third more time", change


def _priced(shape: Shape, plan: MemoryPlan) -> Iterator[Change]:
    lora = {"peft": "lora", "lora_rank": LORA_RANK}
    if plan.peft == "none" and plan.train_language and not plan.train_vision:
        yield "peft=lora", "trains adapters only", lora
        if plan.dtype == "float32" and plan.on_gpu:
            yield (
                "peft=lora model.dtype=bfloat16",
                "and keeps the frozen weights in half precision",
                lora | {"dtype": "bfloat16"},
            )
        if plan.on_gpu and plan.strategy in ("auto", "ddp"):
            change = {"peft": "qlora", "lora_rank": LORA_RANK, "dtype": "bfloat16"}
            yield "peft=qlora model.dtype=bfloat16", "and holds the language model in 4 bits", change
    for stage in (2, 3):
        name = f"deepspeed_zero{stage}"
        if plan.devices > 1 and plan.stage < stage:
            yield f"strategy={name}", f"split over {plan.devices} GPUs", {"strategy": name}
    name = "deepspeed_zero3_offload"
    if plan.on_gpu and not plan.offloaded:
        yield f"strategy={name}", "slow: states in the host's memory", {"strategy": name}
    if plan.batch_size > 1:
        steps = plan.accumulate * plan.batch_size
        accumulated = "" if plan.global_batch else f" trainer.accumulate_grad_batches={steps}"
        overrides = f"data.batch_size=1{accumulated}"
        yield overrides, "slower, the same gradient", {"batch_size": 1, "accumulate": steps}
    length = shape.image_tokens + PAPER_TEXT
    if plan.prompt + plan.response > length:
        response = min(plan.response, PAPER_TEXT // 2)
        change = {"prompt": length - response, "response": response}
        yield f"lengths.max_length={length}", "clips responses, drops long prompts", change
    if plan.on_gpu and not plan.mixed and plan.dtype == "float32":
        yield "trainer.precision=bf16-mixed", "fp32 weights, half-precision activations", {"precision": "bf16-mixed"}
