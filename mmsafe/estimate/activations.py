"""What a training step holds beside the model's states, in bytes: activations, half-precision copies, logits.

Counted from the operations of `transformers`' Llama and CLIP layers and of `mmsafe.scoring.log_probs`;
tests/test_memory_measured.py compares with what autograd really keeps. Other models are taken to be like these.
"""

from mmsafe.estimate.plan import MemoryPlan, Shape

CHUNK = 1 << 24
"""Logits at a time, as `mmsafe.scoring.log_probs.CHUNK`, which cannot be imported without torch."""


def layer(shape: Shape, plan: MemoryPlan) -> float:
    """What autograd keeps of one Llama layer.

    Each norm keeps its input in fp32, and its result if it is trained; attention keeps q, k, v and what it returns;
    SwiGLU keeps four tensors. Under autocast every projection keeps a half-precision input of its own.
    """
    text, size, adapted = shape.text, plan.computed, plan.peft != "none"
    h = text.hidden_size
    norms = 2 * h * (4 + (plan.stream if plan.trains_language_weights else 0))
    inputs = (5 + adapted if plan.autocast else 2) * h * size if plan.train_language else 0
    width = getattr(text, "head_dim", None) or h // text.num_attention_heads
    heads = text.num_attention_heads + text.num_key_value_heads
    attention = 2 * heads * width * size + 4 * text.num_attention_heads
    swiglu = (4 if plan.train_language else 3) * text.intermediate_size * size
    low_rank = 7 * plan.lora_rank * size
    return float(plan.tokens * (norms + inputs + attention + swiglu + low_rank) + _mask(shape, plan))


def activations(shape: Shape, plan: MemoryPlan) -> float:
    """Everything that is kept until the backward pass begins, but for the logits."""
    h, w, patches = shape.text.hidden_size, shape.tower.hidden_size, plan.lines * shape.patches
    vision_layers = getattr(shape.tower, "num_hidden_layers", None) or shape.tower.depth
    norm = plan.tokens * h * (4 + (plan.stream if plan.trains_language_weights else 0))
    kept, tower = shape.text.num_hidden_layers * layer(shape, plan), 0
    if plan.gradient_checkpointing:
        mask = plan.lines * plan.time**2 if plan.attention in ("sdpa", "eager") else 0
        kept = shape.text.num_hidden_layers * plan.tokens * h * plan.stream + mask  # inputs, to compute layers again
        if plan.train_vision or plan.scoring == "padded":  # a checkpointed layer keeps its input, though it be frozen
            tower = (vision_layers + 2) * patches * w * plan.stream
    elif plan.train_vision:  # two norms, four projections' inputs (one shared in fp32), attention, the MLP
        of_projections = (8 if plan.autocast else 6) * w * plan.computed
        token = 2 * w * plan.stream + of_projections + 3 * shape.tower.intermediate_size * plan.computed
        tower = vision_layers * patches * token
    return float(norm + kept + tower + projector(shape, plan))


def projector(shape: Shape, plan: MemoryPlan) -> int:
    """The projector's input, and both sides of its activation."""
    width = shape.tower.hidden_size + 2 * shape.text.hidden_size if plan.train_projector else 0
    return int(plan.lines * shape.image_tokens * width * plan.computed)


def layer_backward(shape: Shape, plan: MemoryPlan) -> float:
    """Three gradients of SwiGLU and two of the residual stream; a checkpointed layer is computed again beside them."""
    gradients = 3 * shape.text.intermediate_size * plan.computed + 2 * shape.text.hidden_size * plan.stream
    if not plan.gradient_checkpointing:
        return float(plan.tokens * gradients)
    weights = 2 * shape.matrices // shape.text.num_hidden_layers if plan.autocast else 0
    return float(plan.tokens * gradients + layer(shape, plan) + weights)


def casts(shape: Shape, plan: MemoryPlan, *, backward: bool = False) -> float:
    """Half-precision copies of fp32 weights under autocast.

    Those of trained weights stay till the forward pass ends, and those that a layer's backward pass needs longer; of a
    checkpointed layer none stays.
    """
    if not plan.autocast:
        return 0.0
    kept = not plan.gradient_checkpointing
    matrices = plan.peft != "qlora" and (kept or (plan.trains_language_weights and not backward))  # 4 bits: one by one
    adapters = shape.adapter(plan.lora_rank) if kept or not backward else 0
    ends = shape.projector * plan.train_projector + shape.vision * plan.train_vision
    return 2.0 * (shape.matrices * matrices + adapters + ends + shape.head * (plan.scoring == "padded"))


def logits(shape: Shape, plan: MemoryPlan, *, backward: bool = False) -> float:
    """Chunks of 64 MiB at response tokens (`shared_prefix`), or logits at all tokens (`padded`)."""
    half, size, count = plan.computed == 2, plan.computed, _logits_at_a_time(shape, plan)
    if plan.scoring == "padded":  # three fp32 tensors; half, fp32 and log-softmax
        return float(_read_by_head(shape, plan) + count * (12 if backward else size + (8 if half else 4)))
    several = plan.targets * shape.text.vocab_size > count
    at_a_time = (10 if half and (several or backward) else 8) * count
    head = shape.head * size if plan.autocast else 0
    if backward and plan.trains_language_weights:
        head += shape.head * ((2 if plan.autocast else 0) + (plan.stored if plan.accumulate > 1 else 0))
    return float(_read_by_head(shape, plan) * (2 if backward else 1) + at_a_time + head)


def reference_pass(shape: Shape, plan: MemoryPlan) -> float:
    """A forward pass without gradients, while the policy's logits wait: one layer, or logits of its own."""
    if plan.reference not in ("frozen", "adapter_off"):
        return 0.0
    width = 4 * shape.text.intermediate_size * plan.computed + 4 * shape.text.hidden_size * plan.stream
    one_layer = plan.tokens * width + 2 * _mask(shape, plan)
    waiting = _read_by_head(shape, plan) + 4 * _logits_at_a_time(shape, plan)
    return float(waiting + max(one_layer, logits(shape, plan)))


def _read_by_head(shape: Shape, plan: MemoryPlan) -> int:
    """Hidden states that the head has read; a frozen `Linear` needs them no more."""
    if plan.scoring == "shared_prefix":
        return int(plan.targets * shape.text.hidden_size * plan.computed)
    return int(plan.tokens * shape.text.hidden_size * plan.computed) if plan.trains_language_weights else 0


def _logits_at_a_time(shape: Shape, plan: MemoryPlan) -> int:
    vocabulary = shape.text.vocab_size
    rows = plan.tokens if plan.scoring == "padded" else min(plan.targets, max(1, CHUNK // vocabulary))
    return int(rows * vocabulary)


def _mask(shape: Shape, plan: MemoryPlan) -> float:
    """`sdpa` turns the bool mask into an additive one in every layer; `eager` keeps every head's probabilities."""
    eager = shape.text.num_attention_heads * (4 if plan.computed == 4 else 6)
    return float({"sdpa": plan.computed, "eager": eager}.get(plan.attention, 0) * plan.lines * plan.time**2)
