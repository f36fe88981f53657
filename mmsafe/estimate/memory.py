"""How much memory a training step takes, worked out from sizes alone: numbers in, bytes out, nothing is run.

Model states: weights, gradients and what the optimiser says that it keeps; ZeRO under mixed precision has 2 + 2 + 12
bytes a parameter, split by stage (Rajbhandari et al., arXiv 1910.02054, section 3.1). Memory can be highest at five
moments of a step; the peak is the largest of them, not the sum of everything.
"""

from dataclasses import dataclass

from mmsafe.estimate import activations as kept
from mmsafe.estimate.plan import MemoryPlan, Shape

NF4 = 4.127 / 8
"""Bytes of a 4-bit weight with its doubly quantised constants (Dettmers et al., arXiv 2305.14314, section 3)."""
BUCKET, LIVE = 200_000_000, 1_000_000_000
"""Elements of a ZeRO bucket, Lightning's default, and of weights gathered at a time by ZeRO-3, DeepSpeed's default."""
HOST_FACTOR = 1.5
"""Buffers of offloading, as in DeepSpeed's `estimate_zero3_model_states_mem_needs`."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device by moment of a step and by part, and bytes that offloading puts into the host's memory."""

    moments: dict[str, dict[str, float]]
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
        return sum(self.moments[moment].values())


def estimate(shape: Shape, plan: MemoryPlan) -> MemoryEstimate:
    """The memory of a training step from the second one on, when the optimiser's state exists."""
    count, tower = trained(shape, plan), 0 if plan.train_vision else shape.vision  # a frozen tower is shared
    weights = _weights(shape, plan)
    reference = _weights(shape, plan, without=tower) if plan.reference == "frozen" else 0.0
    gradients = count * plan.trained / plan.shards(2)
    of_head = shape.head * plan.stored / plan.shards(2) if plan.trains_language_weights else 0.0
    update, host = _update(shape, plan, count), 0.0
    steady = {
        "weights": weights / plan.shards(3),
        "optimiser": state(shape, plan) * count / plan.shards(1),
        "reference": reference / plan.shards(3),
    }
    if plan.strategy.endswith("_offload"):
        steady, gradients, of_head, update = {}, 0.0, 0.0, 0.0
        share = min(1.0, (plan.devices_per_node or plan.devices) / plan.devices)
        host = HOST_FACTOR * share * (weights + reference + 16 * count)
    steady["communication"] = _communication(shape, plan, count)
    replicated = plan.devices > 1 and not plan.stage and plan.strategy != "fsdp"
    lasting = plan.accumulate > 1 or replicated  # DDP's buckets, whose views gradients are, are never freed
    begun = gradients if lasting else of_head
    activations, layer = kept.activations(shape, plan), kept.layer_backward(shape, plan)
    forward = {"gradients": gradients, "activations": activations, "weight casts": kept.casts(shape, plan)}
    last = kept.projector(shape, plan) + (0.0 if plan.gradient_checkpointing else kept.layer(shape, plan))
    moments = {
        "end of forward": forward | {"logits": kept.logits(shape, plan)},
        "reference pass": forward | {"reference pass": kept.reference_pass(shape, plan)},
        "start of backward": {
            "gradients": begun,
            "activations": activations,
            "weight casts": kept.casts(shape, plan, backward=True),
            "backward": max(kept.logits(shape, plan, backward=True), layer),
        },
        "end of backward": {"gradients": gradients, "activations": last, "backward": layer},
        "optimiser step": {"gradients": gradients, "update": update},
    }
    return MemoryEstimate({name: steady | parts for name, parts in moments.items()}, host)


def trained(shape: Shape, plan: MemoryPlan) -> int:
    """Parameters that have gradients."""
    language = shape.language if plan.peft == "none" else shape.adapter(plan.lora_rank)
    return language * plan.train_language + shape.projector * plan.train_projector + shape.vision * plan.train_vision


def state(shape: Shape, plan: MemoryPlan) -> float:
    """Bytes of the optimiser's state for a trained weight."""
    if plan.stage:
        return 12
    matrices = shape.matrices * plan.trains_language_weights / trained(shape, plan)
    return plan.optimizer.state_bytes(plan.trained, matrices)


def _weights(shape: Shape, plan: MemoryPlan, without: int = 0) -> float:
    """All weights but `without` many; beside adapters there is a second projector, which is trained."""
    added = 0 if plan.peft == "none" else shape.adapter(plan.lora_rank) + shape.projector * plan.train_projector
    matrix = NF4 if plan.peft == "qlora" else plan.stored
    return shape.matrices * matrix + (shape.total - shape.matrices - without) * plan.stored + added * plan.trained


def _communication(shape: Shape, plan: MemoryPlan, count: int) -> float:
    """Copies of gradients and weights that are on their way between devices."""
    if plan.strategy == "fsdp" and plan.devices > 1:  # weights and gradients of two layers, embedding and head
        two_layers = 2 * (shape.matrices // shape.text.num_hidden_layers)
        return float(2.0 * (two_layers + shape.embedding + shape.head) * plan.computed)
    if plan.stage == 3:
        return float((min(LIVE, shape.total) + BUCKET) * plan.stored)
    return float((2 * BUCKET + min(BUCKET, count)) * plan.stored) if plan.stage else 0.0


def _update(shape: Shape, plan: MemoryPlan, count: int) -> float:
    """√v of all weights at a time on a GPU (`foreach`), or what one tensor needs; ZeRO casts its gradients too."""
    if plan.stage:
        return 8 * count / plan.shards(1)
    sharded = plan.strategy == "fsdp"
    if plan.on_gpu and plan.optimizer.updates_at_once(sharded=sharded, precision=plan.precision):
        return plan.trained * count / plan.shards(1)
    full, width = plan.peft == "none", shape.text.hidden_size
    rows = max(shape.text.vocab_size, shape.text.intermediate_size) if full else plan.lora_rank
    largest = rows * max(width, plan.lora_rank)
    rounds = plan.optimizer.rounding != "nearest"  # weights, gradients, update and random bits, in 4 bytes each
    return float(largest * (16 if rounds else 2 * plan.trained))
