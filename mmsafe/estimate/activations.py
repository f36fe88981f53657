"""What a training step holds beside the model's states: activations, half-precision copies of weights, logits.

Counted from the operations of `transformers`' Llama and CLIP layers and of `mmsafe.scoring.log_probs`;
tests/test_memory_measured.py compares with what autograd really keeps.
"""

from __future__ import annotations

from mmsafe.estimate.plan import MemoryPlan, PlanItem, Shape, adapter

CHUNK = 1 << 24
"""Logits at a time, as `mmsafe.scoring.log_probs.CHUNK`, which cannot be imported without torch."""


def layer(shape: Shape, plan: MemoryPlan) -> float:
    """Bytes that autograd keeps of one Llama layer.

    Each norm keeps its input in fp32, and its result if it is trained; attention keeps q, k, v and what it returns;
    SwiGLU keeps four tensors. Under autocast every projection keeps a half-precision input of its own. `sdpa` turns the
    bool mask into an additive one in every layer; `eager` keeps the probabilities of every head.
    """
    h, size, adapted = shape.width, plan.computed, plan.peft != "none"
    norms = 2 * h * (4 + (plan.stream if plan.trains_language_weights else 0))
    inputs = (5 + adapted if plan.autocast else 2) * h * size if plan.train_language else 0
    attention = 2 * (h + shape.key_width) * size + 4 * shape.heads
    swiglu = (4 if plan.train_language else 3) * shape.inner * size
    low_rank = 7 * plan.lora_rank * size if adapted else 0
    return plan.tokens * (norms + inputs + attention + swiglu + low_rank) + _mask(shape, plan)


def activations(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """Everything that is kept until the backward pass begins, but for the logits."""
    if plan.gradient_checkpointing:
        layers: float = shape.layers * plan.tokens * shape.width * plan.stream
        how = f"{shape.layers} layer inputs × {shape.width} × {plan.stream} bytes"
    else:
        layers = shape.layers * layer(shape, plan)
        how = f"{shape.layers} layers, h {shape.width}, i {shape.inner}, {plan.computed} bytes"
    inputs = f"{plan.lines} × {plan.time} tokens, {how}, {plan.attention}"
    return PlanItem("activations", layers + _ends(shape, plan), inputs)


def first_layer(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """What is left of the activations when the backward pass reaches the first layer."""
    left = 0.0 if plan.gradient_checkpointing else layer(shape, plan)
    return PlanItem("activations", left + _projector(shape, plan), "one layer and the projector")


def layer_backward(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """Three gradients of SwiGLU and two of the residual stream; a checkpointed layer is computed again beside them."""
    own = plan.tokens * (3 * shape.inner * plan.computed + 2 * shape.width * plan.stream)
    if not plan.gradient_checkpointing:
        return PlanItem("backward", own, "gradients within a layer")
    weights = 2 * shape.matrices // shape.layers if plan.autocast else 0
    return PlanItem("backward", own + layer(shape, plan) + weights, "one layer computed again, gradients within it")


def tower(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """The vision tower gives back the hidden states of all layers; a frozen one keeps nothing else."""
    images = plan.lines  # `padded` shows one to every response, and `shared_prefix` to every view
    width = (shape.vision_layers + 4) * shape.vision_width * plan.stream + 2 * shape.vision_inner * plan.computed
    inputs = f"{images} images × {shape.image_tokens + 1} patches, {shape.vision_layers} layers"
    return PlanItem("vision tower", images * (shape.image_tokens + 1) * width, inputs)


def casts(shape: Shape, plan: MemoryPlan, *, backward: bool = False) -> PlanItem:
    """Half-precision copies of fp32 weights.

    Autocast keeps those of trained weights till the forward pass ends, and autograd those that a layer's backward pass
    needs; of a checkpointed layer it keeps none.
    """
    if not plan.autocast:
        return PlanItem("weight casts", 0.0, "weights are computed with as they are stored")
    graph = not plan.gradient_checkpointing
    cached = not backward
    matrices = shape.matrices if graph or (cached and plan.trains_language_weights) else 0
    if plan.peft == "qlora":
        matrices = 0  # one at a time
    low_rank = adapter(shape, plan.lora_rank) if plan.peft != "none" and (graph or cached) else 0
    projector = shape.projector if plan.train_projector else 0
    head = shape.head if plan.scoring == "padded" else 0
    vision = shape.vision if plan.train_vision else 0
    count = matrices + low_rank + projector + head + vision
    return PlanItem("weight casts", 2.0 * count, f"{count / 1e6:.2f} M in half precision for autocast")


def logits(shape: Shape, plan: MemoryPlan, *, backward: bool = False) -> PlanItem:
    """Chunks of 64 MiB at response tokens (`shared_prefix`), or logits at all tokens (`padded`)."""
    half, size = plan.computed == 2, plan.computed
    if plan.scoring == "padded":
        count = plan.tokens * shape.vocabulary
        of_all = 12 if backward else size + (8 if half else 4)  # three fp32 tensors; half, fp32 and log-softmax
        inputs = f"{plan.tokens} tokens × {shape.vocabulary}"
        return PlanItem("logits", _wait(shape, plan) + of_all * count, inputs)
    count = _chunk(shape, plan)
    several = plan.targets * shape.vocabulary > count
    at_a_time = (10 if half and (several or backward) else 8) * count
    weight = shape.head * size if plan.autocast else 0
    gradient = 0
    if backward and plan.trains_language_weights:
        gradient = shape.head * ((2 if plan.autocast else 0) + (plan.stored if plan.accumulate > 1 else 0))
    inputs = f"{plan.targets} response tokens × {shape.vocabulary}, {count / 2**18:.0f} MiB at a time"
    return PlanItem("logits", _wait(shape, plan) * (2 if backward else 1) + at_a_time + weight + gradient, inputs)


def reference_pass(shape: Shape, plan: MemoryPlan) -> PlanItem:
    """A forward pass without gradients, while the policy's logits wait: one layer, or logits of its own."""
    if plan.reference not in ("frozen", "adapter_off"):
        return PlanItem("reference pass", 0.0, "none in a step")
    saved = 4 * (plan.tokens * shape.vocabulary if plan.scoring == "padded" else _chunk(shape, plan))
    one = plan.tokens * (4 * shape.inner * plan.computed + 4 * shape.width * plan.stream) + 2 * _mask(shape, plan)
    return PlanItem("reference pass", _wait(shape, plan) + saved + max(one, logits(shape, plan).size), "no gradients")


def _wait(shape: Shape, plan: MemoryPlan) -> int:
    """Hidden states that the head has read; a frozen `Linear` needs them no more."""
    if plan.scoring == "padded":
        return plan.tokens * shape.width * plan.computed if plan.trains_language_weights else 0
    return plan.targets * shape.width * plan.computed


def _chunk(shape: Shape, plan: MemoryPlan) -> int:
    return min(plan.targets, max(1, CHUNK // shape.vocabulary)) * shape.vocabulary


def _mask(shape: Shape, plan: MemoryPlan) -> float:
    size = plan.computed
    of_one = {"sdpa": size, "eager": shape.heads * (4 if size == 4 else 6)}
    return of_one.get(plan.attention, 0) * plan.lines * plan.time**2


def _ends(shape: Shape, plan: MemoryPlan) -> float:
    """Projector and tower before the layers, the last norm behind them; the bool mask, for layers computed again."""
    norm = plan.tokens * shape.width * (4 + (plan.stream if plan.trains_language_weights else 0))
    dense = plan.gradient_checkpointing and plan.attention in ("sdpa", "eager")
    mask = plan.lines * plan.time**2 if dense else 0
    vision = 0.0
    if plan.gradient_checkpointing and (plan.train_vision or plan.scoring == "padded"):
        inputs = plan.lines * (shape.image_tokens + 1) * shape.vision_width * plan.stream
        vision = (shape.vision_layers + 2) * inputs  # a checkpointed layer keeps its input, though it be frozen
    elif plan.train_vision:
        vision = shape.vision_layers * _vision_layer(shape, plan)
    return norm + mask + _projector(shape, plan) + vision


def _projector(shape: Shape, plan: MemoryPlan) -> float:
    """Its input, and both sides of its activation."""
    if not plan.train_projector:
        return 0
    return plan.lines * shape.image_tokens * (shape.vision_width + 2 * shape.width) * plan.computed


def _vision_layer(shape: Shape, plan: MemoryPlan) -> float:
    """Of CLIP: two norms, four projections' inputs (one shared in fp32), attention, three tensors of the MLP."""
    w, size = shape.vision_width, plan.computed
    inputs = (4 if plan.autocast else 2) * w * size
    token = 2 * w * plan.stream + inputs + 4 * w * size + 3 * shape.vision_inner * size
    return plan.lines * (shape.image_tokens + 1) * token
