"""A step of training waits for the device only where it is logged."""

import traceback
from collections import Counter
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu
from pytorch_lightning.callbacks import Callback
from small_model import copied, small_model
from torch.utils._python_dispatch import TorchDispatchMode

from mmsafe.data.corruption import Crop
from mmsafe.microworld.reader import MicroWorld
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.sft import SFT
from mmsafe.reference.reference import Cached
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.optimizers.adamw import AdamW

EXAMPLES = [
    example.with_responses(blind="I cannot see it.") for example in MicroWorld(size=8, image_size=24).train().examples
]
WAITS = ("local_scalar_dense", "nonzero", "masked_select", "aten::equal", "unique")
MADE = ("mmsafe/training/preference_data.py", "mmsafe/scoring/collate.py")
"""Where batches are made, which is on the CPU by rights."""
EVERY = 3


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU, by step: `.item()` and its like, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.found: Counter[int] = Counter()
        self.places: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        masked = name == "aten::index.Tensor" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masked or any(wait in name for wait in WAITS):
            self.note(name)
        return function(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        stack = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-2]]
        by = next(line for line in reversed(stack) if "torch/_" not in line and "torch/utils/" not in line)
        counted = "torch/optim/optimizer.py" in by  # AdamW's count of steps, which is on the CPU
        if self.step and not counted and not any(place in line for line in stack for place in MADE):
            self.found[self.step] += 1
            self.places.append(f"step {self.step}, {name}: {by}")

    def watched(self, read: Any) -> Any:
        def reads(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(read.__name__)
            return read(tensor, *args, **kwargs)

        return reads


class Steps(Callback):
    """Counts from the first batch of a step, which is there by then, to its end."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.waits.step = trainer.global_step + 1

    def on_train_end(self, *_: Any) -> None:
        self.waits.step = 0


@pytest.mark.parametrize("objective", [BPO(), BPO(mode="concat"), MDPO(), SFT()], ids=["bpo", "concat", "mdpo", "sft"])
def test_only_logged_steps_wait(objective: Objective, monkeypatch: pytest.MonkeyPatch):
    llava, scoring, waits = copied(small_model()), SharedPrefix(), Waits()
    reference = Cached().policy(llava, scoring, "32-true") if objective.needs_reference else None
    for name in ("cpu", "tolist", "numpy"):  # which no dispatcher sees
        monkeypatch.setattr(torch.Tensor, name, waits.watched(getattr(torch.Tensor, name)))
    with waits:
        fitted(
            llava,
            EXAMPLES,
            objective=objective,
            scoring=scoring,
            reference=reference,
            optimizer=AdamW(lr=1e-3),
            trainer=on_cpu(max_steps=2 * EVERY + 1, accumulate_grad_batches=2, log_every_n_steps=EVERY),
            batch_size=2,
            corruption=Crop(),
            callbacks=[Steps(waits)],
        )
    start = waits.found.pop(1, 0)
    assert start == 2 * len(objective.start), "the first step of all, whose value is known, and nothing else"
    assert waits.found == dict.fromkeys((EVERY, 2 * EVERY), waits.found[EVERY]), "\n".join(waits.places)
    assert waits.found[EVERY] <= 3, "one copy from the device, and what is read of that"
