"""The sizes that a training step's memory depends on, of the model and of what is done with it."""

from dataclasses import dataclass, field
from typing import Any

from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.optimizers.optimizer import Optimizer

STAGES = {"deepspeed_zero1": 1, "deepspeed_zero2": 2, "deepspeed_zero3": 3, "deepspeed_zero3_offload": 3}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model: the configs of its language model and its tower, and how many parameters each part has."""

    text: Any
    tower: Any
    image_tokens: int
    """Tokens of one image in the prompt."""
    patches: int
    """What the tower sees of it."""
    vision: int
    projector: int
    embedding: int
    matrices: int
    """Parameters of the seven projections of all layers."""
    lora_width: int
    """Inputs and outputs of these projections, all added up."""
    norms: int
    head: int

    @property
    def language(self) -> int:
        """Parameters of the language model with its head."""
        return self.embedding + self.matrices + self.norms + self.head

    @property
    def total(self) -> int:
        """All parameters."""
        return self.vision + self.projector + self.language

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA on the seven projections: r · (inputs + outputs) each (Hu et al., arXiv 2106.09685)."""
        return rank * self.lora_width


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What is trained, on what, how; names and values as in the config."""

    batch_size: int
    responses: tuple[int, ...]
    """Responses beside each view of the image: (3,) for BPO, (2, 1) for mDPO."""
    prompt: int
    """Tokens of a prompt, image included."""
    response: int
    scoring: str = "shared_prefix"
    attention: str = "sdpa"
    dtype: str = "float32"
    precision: str = "32-true"
    gradient_checkpointing: bool = False
    accumulate: int = 1
    reference: str = "cached"
    train_language: bool = True
    train_projector: bool = True
    train_vision: bool = False
    strategy: str = "auto"
    devices: int = 1
    devices_per_node: int | None = None
    """None: all of them."""
    optimizer: Optimizer = field(default_factory=lambda: AdamW(lr=1e-6))
    """Its rates change nothing here."""
    peft: str = "none"
    lora_rank: int = 0
    on_gpu: bool = True

    @property
    def lines(self) -> int:
        """Sequences of a batch: one per view of the image, or one per response."""
        return self.batch_size * (len(self.responses) if self.scoring == "shared_prefix" else sum(self.responses))

    @property
    def time(self) -> int:
        """Tokens of a sequence: prompt and all its responses, up to a multiple of 8, or prompt and one response."""
        if self.scoring == "padded":
            return self.prompt + self.response
        return -(-(self.prompt + max(self.responses) * self.response) // 8) * 8

    @property
    def tokens(self) -> int:
        """Tokens of all sequences of a batch, padding included."""
        return self.lines * self.time

    @property
    def targets(self) -> int:
        """Response tokens of a batch."""
        return self.batch_size * sum(self.responses) * self.response

    @property
    def stage(self) -> int:
        """ZeRO stage; 0 without DeepSpeed."""
        return STAGES.get(self.strategy, 0)

    @property
    def stored(self) -> int:
        """Bytes of a weight as it is kept; DeepSpeed casts the model, and its optimiser has the fp32 copy."""
        return 2 if self.dtype != "float32" or (self.stage and self.precision.endswith("-mixed")) else 4

    @property
    def trained(self) -> int:
        """Bytes of a weight that is trained: adapters, and the projector beside them, are always fp32."""
        return self.stored if self.peft == "none" or self.stage else 4

    @property
    def computed(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.precision.endswith("-mixed") else self.stored

    @property
    def autocast(self) -> bool:
        """Whether fp32 weights are copied to half precision in every step, and the residual stream stays fp32."""
        return self.computed < self.stored and self.strategy != "fsdp"

    @property
    def stream(self) -> int:
        """Bytes of a number in the residual stream."""
        return 4 if self.autocast else self.computed

    @property
    def trains_language_weights(self) -> bool:
        """Whether the language model is trained itself, and not an adapter on it."""
        return self.train_language and self.peft == "none"

    def shards(self, stage: int) -> int:
        """Devices among which something is split that ZeRO splits from `stage` on; FSDP splits everything."""
        return self.devices if self.stage >= stage or self.strategy == "fsdp" else 1
