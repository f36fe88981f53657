"""How much memory a training step takes, worked out from sizes alone: numbers in, bytes out, nothing is run.

Model states: weights, gradients and Adam's two moments in the type of the weights; ZeRO under mixed precision has
2 + 2 + 12 bytes a parameter, split by stage (Rajbhandari et al., arXiv 1910.02054, section 3.1). A step has six moments
at which memory can be highest; the peak is the largest of them, not the sum of everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmsafe.estimate import activations as kept
from mmsafe.estimate.plan import MemoryPlan, PlanItem, Shape, adapter

NF4 = 4.127 / 8
"""Bytes of a 4-bit weight with its doubly quantised constants (Dettmers et al., arXiv 2305.14314, section 3)."""
BUCKET, LIVE = 200_000_000, 1_000_000_000
"""Elements of a ZeRO bucket, Lightning's default, and of weights gathered at a time by ZeRO-3, DeepSpeed's default."""
HOST_FACTOR = 1.5
"""Buffers of offloading, as in DeepSpeed's `estimate_zero3_model_states_mem_needs`."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device at every moment of a step, and bytes that offloading puts into the host's memory."""

    moments: dict[str, tuple[PlanItem, ...]]
    host: float

    @property
    def moment(self) -> str:
        """When memory is highest."""
        return max(self.moments, key=self.at)

    @property
    def peak(self) -> float:
        """Bytes at that moment."""
        return self.at(self.moment)

    def at(self, moment: str) -> float:
        """Bytes at one moment."""
        return sum(item.size for item in self.moments[moment])


def estimate(shape: Shape, plan: MemoryPlan) -> MemoryEstimate:
    """The memory of a training step from the second one on, when the optimiser's state exists."""
    steady = (_weights(shape, plan), _optimiser(shape, plan), _reference(shape, plan), _communication(shape, plan))
    gradients = _gradients(shape, plan)
    lasting = plan.accumulate > 1 or plan.replicated  # DDP's buckets, whose views gradients are, are never freed
    begun = gradients if lasting else _head_gradient(shape, plan)
    layer = kept.layer_backward(shape, plan)
    forward = (kept.activations(shape, plan), kept.casts(shape, plan))
    backward = (kept.activations(shape, plan), kept.casts(shape, plan, backward=True))
    moments = {
        "vision tower": (gradients, kept.tower(shape, plan)),
        "end of forward": (gradients, *forward, kept.logits(shape, plan)),
        "reference pass": (gradients, *forward, kept.reference_pass(shape, plan)),
        "start of backward": (begun, *backward, max(kept.logits(shape, plan, backward=True), layer, key=_size)),
        "end of backward": (gradients, kept.first_layer(shape, plan), layer),
        "optimiser step": (gradients, _update(shape, plan)),
    }
    return MemoryEstimate({name: (*steady, *items) for name, items in moments.items()}, _host(shape, plan))


def trained(shape: Shape, plan: MemoryPlan) -> int:
    """Parameters that have gradients."""
    language = shape.language if plan.peft == "none" else adapter(shape, plan.lora_rank)
    parts = (
        (language, plan.train_language),
        (shape.projector, plan.train_projector),
        (shape.vision, plan.train_vision),
    )
    return sum(size for size, wanted in parts if wanted)


def _bytes(shape: Shape, plan: MemoryPlan, without: int = 0) -> float:
    """Of all weights but `without` many; adapters bring weights of their own and a second projector."""
    added = 0  # adapters, and the projector that is trained beside the first one
    if plan.peft != "none":
        added = adapter(shape, plan.lora_rank) + (shape.projector if plan.train_projector else 0)
    matrix = NF4 if plan.peft == "qlora" else plan.stored
    return shape.matrices * matrix + (shape.total - shape.matrices - without) * plan.stored + added * plan.trained


def _weights(shape: Shape, plan: MemoryPlan) -> PlanItem:
    shards = plan.shards(3)
    inputs = f"{_count(shape.total)} parameters × {plan.stored} bytes" + _over(shards)
    if plan.peft != "none":
        inputs += f", and LoRA of rank {plan.lora_rank}"
    if plan.peft == "qlora":
        inputs += f"; {_count(shape.matrices)} of them × {NF4:.3f} bytes"
    return PlanItem("weights", 0.0 if plan.offloaded else _bytes(shape, plan) / shards, _where(inputs, plan))


def _gradients(shape: Shape, plan: MemoryPlan) -> PlanItem:
    count, shards = trained(shape, plan), plan.shards(2)
    inputs = f"{_count(count)} trained × {plan.trained} bytes" + _over(shards)
    return PlanItem("gradients", 0.0 if plan.offloaded else count * plan.trained / shards, _where(inputs, plan))


def _head_gradient(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """The first gradient of a backward pass; the others do not exist yet."""
    count = shape.head if plan.trains_language_weights and not plan.offloaded else 0
    return PlanItem("gradients", count * plan.stored / plan.shards(2), f"{_count(count)} of the head")


def _optimiser(shape: Shape, plan: MemoryPlan) -> PlanItem:
    count, shards = trained(shape, plan), plan.shards(1)
    each = 12 if plan.stage else 2 * plan.trained
    what = "fp32 weight, m and v" if plan.stage else "m and v"
    inputs = f"{_count(count)} trained × {each} bytes ({what})" + _over(shards)
    return PlanItem("optimiser", 0.0 if plan.offloaded else each * count / shards, _where(inputs, plan))


def _reference(shape: Shape, plan: MemoryPlan) -> PlanItem:
    if plan.reference != "frozen":
        return PlanItem("reference", 0.0, f"{plan.reference}: no second model")
    tower = 0 if plan.train_vision else shape.vision
    shards, count = plan.shards(3), shape.total - tower
    inputs = f"{_count(count)} parameters × {plan.stored} bytes" + _over(shards) + (", tower shared" if tower else "")
    size = 0.0 if plan.offloaded else _bytes(shape, plan, without=tower) / shards
    return PlanItem("reference", size, _where(inputs, plan))


def _communication(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """Copies of gradients and weights that are on their way between devices."""
    count, size = trained(shape, plan), plan.stored
    if plan.strategy == "fsdp" and plan.devices > 1:
        layer = shape.matrices // shape.layers
        unit = 2 * layer + shape.embedding + shape.head
        return PlanItem(
            "communication", 2 * unit * plan.computed, "two layers, embedding and head: weights and gradients"
        )
    if plan.stage == 3:
        live = min(LIVE, shape.total)
        return PlanItem("communication", (live + BUCKET) * size, f"{_count(live)} gathered and a bucket × {size} bytes")
    if plan.stage:
        return PlanItem("communication", (2 * BUCKET + min(BUCKET, count)) * size, "three buckets of 200 M or less")
    return PlanItem("communication", 0.0, "gradients are views of DDP's buckets" if plan.devices > 1 else "one device")


def _update(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """√v of all weights at a time on a GPU (`foreach`), of one tensor on the CPU; ZeRO casts its gradients too."""
    count = trained(shape, plan)
    if plan.offloaded:
        return PlanItem("update", 0.0, "on the host")
    if plan.stage:
        return PlanItem("update", 8 * count / plan.shards(1), f"{_count(count)} × 8 bytes" + _over(plan.shards(1)))
    if plan.on_gpu:
        size = count * plan.trained / plan.shards(1)
        return PlanItem("update", size, f"√v of {_count(count)} trained" + _over(plan.shards(1)))
    widest = shape.vocabulary if plan.peft == "none" else plan.lora_rank
    largest = max(widest, shape.inner if plan.peft == "none" else 0) * max(shape.width, plan.lora_rank)
    return PlanItem("update", 2 * largest * plan.trained, f"√v of the largest of {_count(count)} trained, twice")


def _host(shape: Shape, plan: MemoryPlan) -> float:
    """Of each host: its share of weights, fp32 gradients and 12 bytes of optimiser, with buffers."""
    if not plan.offloaded:
        return 0.0
    tower = 0 if plan.train_vision else shape.vision
    reference = _bytes(shape, plan, without=tower) if plan.reference == "frozen" else 0.0
    share = min(1.0, (plan.devices_per_node or plan.devices) / plan.devices)
    return HOST_FACTOR * share * (_bytes(shape, plan) + reference + 16 * trained(shape, plan))


def _size(item: PlanItem) -> float:
    return item.size


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _over(shards: int) -> str:
    return f" / {shards} devices" if shards > 1 else ""


def _where(inputs: str, plan: MemoryPlan) -> str:
    return "on the host" if plan.offloaded else inputs
