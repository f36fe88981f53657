"""`python training_peak.py JSON`: peak memory of a real training run, beside what the estimator says."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from fitting import fitted

from mmsafe.core.settings import Trainer
from mmsafe.data.example import Example
from mmsafe.estimate.memory import estimate
from mmsafe.estimate.plan import MemoryPlan
from mmsafe.estimate.shape import measured
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_build import build
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.simpo import SimPO
from mmsafe.reference.reference import Frozen
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix
from mmsafe.training.optimizers.adamw import AdamW

SMALL = Architecture(image_size=64, patch_size=16, vision_width=32, vision_layers=1, width=32, layers=1, heads=2)
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
STEPS = 3
LORA = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
RANK = 16


def main() -> None:
    """Print bytes: measured peak over what the process held before the model was built, and the estimate's peak."""
    case: dict[str, Any] = json.loads(sys.argv[1])
    train(build(TinyModel(pretraining=None, architecture=SMALL)), case, batch_size=1)  # libraries load what they need
    before = status("VmRSS")
    CLEAR.write_text("5")
    llava = build(TinyModel(pretraining=None, architecture=Architecture(**case["architecture"])))
    plan = plan_of(llava, case)
    found = estimate(measured(llava.model), plan)
    train(llava, case, case["batch_size"])
    print(
        json.dumps(
            {"measured": status("VmHWM") - before, "peak": found.peak, "moment": found.moment}
            | found.moments[found.moment]
        )
    )


def train(llava: VLM, case: dict[str, Any], batch_size: int) -> None:
    """A few optimiser steps of `mmsafe.training.fit.fit`, as a user's run makes them."""
    if case.get("lora"):
        add_lora(llava.model)
    if case.get("gradient_checkpointing"):
        llava.model.gradient_checkpointing_enable({"use_reentrant": False})
    accumulate = case.get("accumulate", 1)
    scoring = scoring_of(case)
    objective = objective_of(case)
    precision = case.get("precision", "32-true")
    fitted(
        llava,
        examples(llava, batch_size * accumulate * STEPS, uneven=case["scoring"] == "padded"),
        objective=objective,
        scoring=scoring,
        reference=Frozen().policy(llava, scoring, precision) if objective.needs_reference else None,
        optimizer=AdamW(lr=1e-4),
        trainer=Trainer(accelerator="cpu", precision=precision, accumulate_grad_batches=accumulate, progress_bar=False),
        batch_size=batch_size,
        seed=0,
    )


def add_lora(model: Any) -> None:
    """Adapters on the language model, the projector trained beside them."""
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=RANK, target_modules=LORA))
    model.model.multi_modal_projector.requires_grad_(True)


def plan_of(llava: VLM, case: dict[str, Any]) -> MemoryPlan:
    """What the estimator is told."""
    (example,) = examples(llava, 1)
    encoder, objective = llava.encoder(), objective_of(case)
    return MemoryPlan(
        batch_size=case["batch_size"],
        responses=(len(objective.groups[0]),),
        prompt=len(encoder.prompt_ids(example)),
        response=len(encoder.response_ids(example.responses["chosen"])),
        scoring=case["scoring"],
        precision=case.get("precision", "32-true"),
        gradient_checkpointing=case.get("gradient_checkpointing", False),
        accumulate=case.get("accumulate", 1),
        reference="frozen" if objective.needs_reference else "none",
        peft="lora" if case.get("lora") else "none",
        lora_rank=RANK if case.get("lora") else 0,
        on_gpu=False,
    )


def examples(llava: VLM, count: int, *, uneven: bool = False) -> list[Example]:
    """All of one length, so that every batch is the largest; `uneven`: a shorter one too, so that there is a mask."""
    found = MicroWorld(size=count, image_size=llava.model.config.vision_config.image_size).train().examples
    first = found[0]
    same = first.responses["chosen"]
    words = same.split()
    other = " ".join(words[:-1] if uneven else words[::-1])  # equal ones are left out of training
    first = first.with_responses(chosen=same, rejected=other, blind=same)
    return [dataclasses.replace(first, id=example.id, images=example.images) for example in found[:count]]


def objective_of(case: dict[str, Any]) -> Objective:
    return BPO() if case.get("frozen") else SimPO()


def scoring_of(case: dict[str, Any]) -> Scoring:
    return Padded() if case["scoring"] == "padded" else SharedPrefix()


def can_measure() -> bool:
    """Whether this kernel can start the peak of a process again."""
    return STATUS.exists() and CLEAR.exists() and os.access(CLEAR, os.W_OK)


def status(name: str) -> int:
    """Bytes of a field of /proc/self/status."""
    match = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), flags=re.M)
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()
