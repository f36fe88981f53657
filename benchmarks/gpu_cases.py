"""What `benchmarks.gpu` measures: ours as command lines of `mmsafe.train`, TRL as options of its `DPOConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.models import SIZES, Sizes

FLASH = "flash_attention_2" if find_spec("flash_attn") else "sdpa"


class Scale(NamedTuple):
    """Sizes of a run: the real ones, or toy ones that any CPU manages."""

    model: Sizes
    responses: dict[int, int]
    """Tokens of a response, about, and from how many words on it ends with its sentence."""
    middle: int
    """The tokens at which every way is measured."""
    prompt: int
    """Words of a prompt, in the same sense."""
    questions: int
    """Of an optimiser step."""
    steps: int
    warm_up: int
    """First steps, which are not timed: kernels are compiled and chosen in them."""
    workers: int
    words: tuple[str, ...]
    trl: dict[str, Any]


LLAVA_7B = Sizes(336, 14, 1024, 24, 16, 4096, 11008, 32, 32, 32064)
REAL = Scale(
    LLAVA_7B,
    responses={30: 17, 80: 62, 200: 169},
    middle=80,
    prompt=18,
    questions=4,
    steps=10,
    warm_up=3,
    workers=4,
    words=("model.dtype=bfloat16",),
    trl={"bf16": True, "use_cpu": False},
)
TOY = Scale(
    SIZES["tiny"],
    responses={20: 6},
    middle=20,
    prompt=4,
    questions=2,
    steps=4,
    warm_up=1,
    workers=0,
    words=("trainer.accelerator=cpu", "trainer.precision=32-true"),
    trl={},
)

CHECKPOINTED, BITS_8 = "model.gradient_checkpointing=true", "optimizer=adamw_8bit"
FLEX, COMPILED = "model.attention=flex_attention", "model.compile=true"
ROUNDED = (BITS_8, "optimizer.rounding=stochastic", "model.dtype=bfloat16")
OURS = {
    "lora": {
        "padded": ("scoring=padded", CHECKPOINTED),
        "packed": (),
        "packed, flex": (FLEX,),
        "packed, flex, compiled": (FLEX, COMPILED),
    },
    "full": {
        "packed, AdamW": (CHECKPOINTED,),
        "packed": ROUNDED,
        "packed, flex": (*ROUNDED, FLEX),
        "packed, flex, compiled": (*ROUNDED, FLEX, COMPILED),
    },
}
"""Overrides of `mmsafe.train` by what is trained; one that this version lacks is told in the result."""
SHIPPED, TUNED = "TRL as shipped", "TRL tuned"
TRL: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {SHIPPED: {}, TUNED: {}},
    "full": {SHIPPED: {}, TUNED: {"optim": "adamw_bnb_8bit", "per_device_train_batch_size": 1}},
}
"""Options beside those of every case: shipped has checkpointing and no workers, tuned the contrary."""


@dataclass(frozen=True)
class Case:
    """One measurement, alone in a process."""

    objective: str
    train: str
    response: int
    way: str
    scale: Scale = field(repr=False)

    @property
    def group(self) -> tuple[str, str, int]:
        """Cases of a group train the same model on the same questions."""
        return self.objective, self.train, self.response

    @property
    def name(self) -> str:
        return "-".join([self.objective, self.train, str(self.response), self.way.replace(", ", "_").replace(" ", "_")])

    @property
    def is_trl(self) -> bool:
        return self.way in (SHIPPED, TUNED)

    @property
    def exact(self) -> bool:
        """Whether numbers agree to fp32's rounding, after several steps too."""
        return self.scale is TOY and not {BITS_8, "adamw_bnb_8bit"} & {*self.words(Path()), self.trl_options["optim"]}

    def words(self, inputs: Path) -> list[str]:
        """The overrides of `mmsafe.train`; of TRL's cases, what concerns the model."""
        own = (f"model.attention={FLASH}",) if self.way == TUNED and self.scale is REAL else ()
        return [
            f"objective={self.objective}",
            f"peft={'lora' if self.train == 'lora' else 'none'}",
            "model=hf",
            f"model.path={inputs / 'model'}",
            f"model.train.projector={str(self.train == 'full').lower()}",
            "data=mmsafe_po",
            f"data.path={self.data(inputs)}",
            f"data.batch_size={self.scale.questions}",
            f"data.num_workers={self.scale.workers}",
            f"optimizer.lr={self.lr}",
            "optimizer.schedule=constant",
            "optimizer.warmup_steps=0",
            "trainer.deterministic=false",  # as TRL
            "trainer.progress_bar=false",
            "evaluate=false",
            *self.scale.words,
            *(own if self.is_trl else OURS[self.train][self.way]),
        ]

    @property
    def lr(self) -> float:
        return 1e-4 if self.train == "lora" else 1e-5

    @property
    def trl_options(self) -> dict[str, Any]:
        tuned = self.way == TUNED
        found = {"optim": "adamw_torch_fused", **self.scale.trl, **TRL[self.train].get(self.way, {})}
        return {
            **found,
            "gradient_checkpointing": not tuned,
            "dataloader_num_workers": self.scale.workers if tuned else 0,
            "dataloader_pin_memory": self.scale is REAL,
        }

    def data(self, inputs: Path) -> Path:
        return inputs / str(self.response) / "data.json"


def cases(scale: Scale) -> list[Case]:
    """All, group by group; the two sides take turns within one."""
    found = []
    for objective, train in product(("bpo", "dpo"), OURS):
        ours = list(OURS[train])
        ways = (SHIPPED, *ours[:2], TUNED, *ours[2:])
        found += [Case(objective, train, scale.middle, way, scale) for way in ways]
    others = [response for response in scale.responses if response != scale.middle]
    for objective, response in product(("bpo", "dpo"), others):
        shipped = [SHIPPED] if objective == "bpo" else []
        found += [Case(objective, "lora", response, way, scale) for way in (*shipped, "packed, flex", TUNED)]
    return found
