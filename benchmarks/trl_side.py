"""TRL's side of `benchmarks.step`: its own `DPOTrainer`, driven one optimiser step at a time."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset, Features, Image, List, Value
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils as trl_utils

from benchmarks.sides import PAIRS, Clock, Plan, Step
from mmsafe.data.example import Example
from mmsafe.models.vlm import VLM

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # old names that TRL still uses

PART = {"type": Value("string"), "text": Value("string")}
TURNS = List({"role": Value("string"), "content": List(PART)})
FEATURES = Features({"images": List(Image()), "prompt": TURNS, "chosen": TURNS, "rejected": TURNS})


class TrlSide:
    """A trainer for pairs; a question with a blind response is two pairs, whose losses TRL averages.

    The pairs of a batch of questions are made with one gradient accumulation step for each kind of pair, so that an
    optimiser step sees the same questions as ours, and no more sequences at once than a plain DPO step.
    """

    def __init__(
        self, plan: Plan, examples: Sequence[Example], llava: VLM | None = None, adapter: Any = None, **options: Any
    ) -> None:
        """`adapter` is the PEFT config of what is trained in place of all weights, `options` are TRL's own."""
        llava = llava or plan.load()
        self.pairs, self.compact = PAIRS[plan.objective], plan.trl_head == "compact"
        self.micro_batches = len(plan.pairs()) // plan.steps
        self._folder = tempfile.TemporaryDirectory()  # TRL wants one; nothing is saved
        settings: dict[str, Any] = {
            "per_device_train_batch_size": plan.trl_batch or plan.batch_size,
            "gradient_accumulation_steps": self.micro_batches,
            "max_steps": plan.steps,
            "learning_rate": plan.lr,
            "lr_scheduler_type": "constant",
            "optim": "adamw_torch_fused",  # as ours
            # The mean over two pairs has half the gradient of our sum: with half the limit, clipping does the same.
            "max_grad_norm": plan.clip / len(self.pairs),
            "beta": 0.1,
            "max_length": None,
            "bf16": False,
            "gradient_checkpointing": plan.checkpointing,  # `plan.load` has turned it on
            "train_sampling_strategy": "sequential",
            "dataloader_pin_memory": False,
            "use_cpu": True,
            "seed": plan.seed,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        rows = [row(examples[index], other) for other, batch in plan.pairs() for index in batch]
        dataset = Dataset.from_list(rows, features=FEATURES)
        torch.manual_seed(plan.seed)  # of the adapter's weights, as `add_lora` does
        self.trainer = DPOTrainer(
            llava.model,
            None if adapter else deepcopy(llava.model),
            DPOConfig(self._folder.name, **settings | options),
            train_dataset=dataset,
            processing_class=llava.processor,
            peft_config=adapter,
        )
        self.steps: list[Step] = []

    def collated(self) -> Iterator[Any]:
        """The batches of pairs as TRL makes them, without training on them."""
        yield from self.trainer.get_train_dataloader()

    def start(self) -> None:
        """What `Trainer.train` does before its loop."""
        trainer = self.trainer
        trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
        self.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self.model
        trainer.current_gradient_accumulation_steps = self.micro_batches
        self._batches = iter(trainer.get_train_dataloader())

    def step(self) -> None:
        """What `Trainer.train` does in an optimiser step, without its logging."""
        trainer, clock, loss = self.trainer, Clock(), 0.0
        micro_batches = [next(self._batches) for _ in range(self.micro_batches)]
        collate = clock.lap()
        for position, batch in enumerate(micro_batches, start=1):
            trainer.accelerator.gradient_state._set_sync_gradients(position == self.micro_batches)
            with self._head():
                loss += trainer.training_step(self.model, batch)
        norm = trainer._clip_grad_norm(self.model)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        self.model.zero_grad()
        trainer.state.global_step += 1
        # A mean over pairs there is a sum over pairs here.
        scale = len(self.pairs)
        self.steps.append(Step(scale * float(loss), scale * float(norm), collate, clock.lap()))

    def _head(self) -> Any:
        # This module of TRL's asks for Triton only to choose the positions; the arithmetic asks in its own.
        return patch.object(trl_utils, "_use_triton", lambda device: True) if self.compact else nullcontext()


def row(example: Example, other: str) -> dict[str, Any]:
    """A pair as TRL's data set wants it; with plain strings TRL would put the image into the first turn."""
    return {
        "images": [str(example.images[0].path)],  # type: ignore[union-attr]  # MMSafe-PO has files only
        "prompt": example.messages(),
        "chosen": [_answer(example.responses["chosen"])],
        "rejected": [_answer(example.responses[other])],
    }


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
