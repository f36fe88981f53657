"""What `benchmarks.gpu` measures: ours as command lines of `mmsafe.train`, TRL as options of its `DPOConfig`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.models import SIZES, Sizes
from benchmarks.sides import Plan
from mmsafe.core.files import write_atomically


class Scale(NamedTuple):
    """Sizes of a run: the real ones, or toy ones that any CPU manages."""

    model: Sizes
    responses: dict[int, int]
    """Tokens of a response, about, and from how many words on it ends with its sentence."""
    middle: int  # tokens at which every way is measured
    prompt: int
    questions: int
    steps: int
    warm_up: int  # steps that are not timed: kernels are compiled and chosen in them
    workers: int
    words: tuple[str, ...]
    trl: dict[str, Any]


LLAVA_7B = Sizes(336, 14, 1024, 24, 16, 4096, 11008, 32, 32, 32064)
FLASH = "flash_attention_2" if find_spec("flash_attn") else "sdpa"
BF16, BITS_32 = ("model.dtype=bfloat16",), ("trainer.accelerator=cpu", "trainer.precision=32-true")
REAL = Scale(LLAVA_7B, {30: 17, 80: 62, 200: 169}, 80, 18, 4, 10, 3, 4, BF16, {"bf16": True, "use_cpu": False})
TOY = Scale(SIZES["tiny"], {20: 6}, 20, 4, 2, 4, 1, 0, BITS_32, {})

CHECKPOINTED, BITS_8 = "model.gradient_checkpointing=true", "optimizer=adamw_8bit"
FLEX, COMPILED = "model.attention=flex_attention", "model.compile=true"
ROUNDED = (BITS_8, "optimizer.rounding=stochastic", "model.dtype=bfloat16")
OURS: dict[str, dict[str, tuple[str, ...]]] = {
    "lora": {"padded": ("scoring=padded", CHECKPOINTED), "packed": ()},
    "full": {"packed, AdamW": (CHECKPOINTED,), "packed": ROUNDED},
}
"""Overrides of `mmsafe.train` by what is trained; one that this version lacks is told in the result."""
for _ways in OURS.values():
    _ways["packed, flex"] = (*_ways["packed"], FLEX)
    _ways["packed, flex, compiled"] = (*_ways["packed, flex"], COMPILED)
SHIPPED, TUNED = "TRL as shipped", "TRL tuned"
ALIKE = "optimizer.schedule=constant optimizer.warmup_steps=0 trainer.deterministic=false trainer.progress_bar=false"
TRL_FULL_TUNED = {"optim": "adamw_bnb_8bit", "per_device_train_batch_size": 1}
"""Without these, all weights of a 7B and their reference do not fit beside activations."""


@dataclass(frozen=True)
class Case:
    """One measurement, alone in a process."""

    objective: str
    train: str
    response: int
    way: str
    scale: Scale = field(repr=False, compare=False)

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
        plan, lora = self.plan(inputs), self.train == "lora"
        own = (f"model.attention={FLASH}",) if self.way == TUNED and self.scale is REAL else ()
        said = f"objective={self.objective} peft={'lora' if lora else 'none'} model.train.projector={not lora} {ALIKE} "
        said += f"data.batch_size={plan.batch_size} data.num_workers={self.scale.workers} optimizer.lr={plan.lr}"
        paths = ["model=hf", f"model.path={plan.model}", "data=mmsafe_po", f"data.path={plan.data}"]
        return [*paths, *said.split(), *self.scale.words, *(own if self.is_trl else OURS[self.train][self.way])]

    def file(self, out: Path) -> Path:
        return out / f"{self.name}.json"

    def save(self, out: Path, found: Mapping[str, Any]) -> None:
        write_atomically(self.file(out), json.dumps(found, indent=1))

    @property
    def trl_options(self) -> dict[str, Any]:
        """Shipped has gradient checkpointing and no workers, tuned the contrary."""
        tuned = self.way == TUNED
        return {
            "optim": "adamw_torch_fused",
            "gradient_checkpointing": not tuned,
            "dataloader_num_workers": self.scale.workers if tuned else 0,
            "dataloader_pin_memory": self.scale is REAL,
            **self.scale.trl,
            **(TRL_FULL_TUNED if tuned and self.train == "full" else {}),
        }

    def plan(self, inputs: Path) -> Plan:
        """What both sides agree on, of the files that `gpu.prepare` wrote."""
        return Plan(
            model=inputs / "model",
            data=inputs / str(self.response) / "data.json",
            objective=self.objective,
            steps=self.scale.steps,
            batch_size=self.scale.questions,
            lr=1e-4 if self.train == "lora" else 1e-5,
            trl_batch=self.trl_options.get("per_device_train_batch_size"),
        )


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
