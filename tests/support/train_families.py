"""Trains a tiny model of each family by a strategy, in as many processes as torchrun started: `… OUT STRATEGY`.

Every process loads its part of what the first call, alone and with `auto`, saved in OUT. Examples have no, one or two
images, of several sizes.
"""

import dataclasses
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed_on_cpu import OnCpu
from safetensors.torch import save_file
from small_model import Noise, of_family
from transformers import AutoModelForImageTextToText

from mmsafe.core.ranks import is_first, world_size
from mmsafe.core.settings import Peft, Trainer
from mmsafe.data.example import Example, Turn
from mmsafe.models.adapters import add_lora
from mmsafe.models.family import Family, families
from mmsafe.models.vlm import set_trained
from mmsafe.objectives.simpo import SimPO
from mmsafe.reporting.csv_log import CsvLog
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.fit import fit
from mmsafe.training.optimizers.adamw import AdamW
from mmsafe.training.preference_data import PreferenceData
from mmsafe.training.recipe import Batching, Loss, Output, Recipe
from mmsafe.training.strategies.strategy import DDP, FSDP, Auto

IN_PARTS = {"stage3_param_persistence_threshold": 0}
"""So that tiny weights, too, are held by one process each."""
STRATEGIES: dict[str, Any] = {
    "auto": Auto(),
    "ddp": DDP(),
    "fsdp": FSDP(),
    "zero3": OnCpu(stage=3, bucket_size=100_000, zero_optimization=IN_PARTS),
}
SIZES = [(40, 30), (90, 50), (30, 60)]


def examples() -> list[Example]:
    found = []
    for number in range(12):
        images = tuple(Noise(10 * number + i, *SIZES[(number // 3 + i) % 3]) for i in range(number % 3))
        turn = Turn("user", "What is this?", (0,) * len(images))
        said = {"chosen": f"It is number {number}, I think.", "rejected": "No."}
        found.append(Example(str(number), (turn,), images, said))
    return found


def train(family: Family, strategy: str, method: Any, out: Path) -> None:
    llava, base = of_family(family), out / "base" / family.name
    if not base.exists():
        llava.model.save_pretrained(base)
    trainer = Trainer(max_epochs=2, accelerator="cpu", devices=world_size(), precision="32-true", progress_bar=False)
    batching = Batching(4 // world_size())
    recipe = Recipe(AdamW(lr=1e-3, warmup_steps=0), trainer, batching, 0, STRATEGIES[strategy])
    loss = Loss(SimPO(), SharedPrefix())

    def policy() -> Any:
        model: Any = AutoModelForImageTextToText.from_pretrained(base)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        set_trained(model, llava.source.train)
        add_lora(dataclasses.replace(llava, model=model), Peft(method=method, rank=4, alpha=8))
        return model

    folder = out / strategy / f"{family.name}-{method}"
    data = PreferenceData(llava, examples(), loss, recipe)
    whole = policy() if recipe.parallel.whole else None
    fitted = fit(whole or policy, data, loss, recipe, Output(folder, None, [CsvLog(folder)]))
    if is_first():
        weights: Any = whole.state_dict() if whole else fitted.weights
        save_file({name: weight.clone() for name, weight in weights.items()}, folder / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for family in families():
        for method in ("none", "lora"):
            train(family, sys.argv[2], method, Path(sys.argv[1]))
            gc.collect()
