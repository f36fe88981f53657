"""How many parameters each part of a model has, and how many of them are trained."""

from typing import Any, NamedTuple

from mmsafe.models.family import family_of

LABELS = {"vision": "vision tower", "connector": "projector", "language": "language model"}
HEAD, LORA = "LM head", "LoRA"
SET_ASIDE = ".original_module."
"""In the names of the projector as it was: not part of the policy while a trained copy stands in for it."""


class Count(NamedTuple):
    """Parameters of a part."""

    total: int
    trainable: int


def count_parameters(model: Any) -> dict[str, Count]:
    """Parameters of each part that `model` has; one in 4 bits counts as the one it stands for."""
    parts = family_of(model.config.model_type).parts
    counts = dict.fromkeys([*LABELS.values(), HEAD, LORA], Count(0, 0))
    for name, parameter in model.named_parameters():
        if SET_ASIDE in name:
            continue
        whole = HEAD if name.startswith("lm_head.") else LABELS[parts.of(name)]
        part = LORA if ".lora_" in name else whole
        packed = getattr(parameter, "quant_state", None)  # of bitsandbytes: two weights to a byte
        size = parameter.numel() if packed is None else int(packed.shape.numel())
        counts[part] = Count(counts[part].total + size, counts[part].trainable + size * parameter.requires_grad)
    return {part: count for part, count in counts.items() if count.total}
