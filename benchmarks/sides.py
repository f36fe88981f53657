"""What the two sides of `benchmarks.step` have in common: what is run, and what is measured of a step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.families import BUILD, random_model
from mmsafe.core.errors import UserError
from mmsafe.data.example import Example
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.scoring.sampler import EpochBatches

OBJECTIVES: dict[str, Objective] = {"dpo": DPO(), "bpo": BPO()}
PAIRS = {"dpo": ("rejected",), "bpo": ("rejected", "blind")}
"""What the chosen response is paired with where there are only pairs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that both sides must agree on; fp32, AdamW, a constant learning rate, the vision tower frozen."""

    model: Path
    data: Path
    objective: str = "dpo"
    steps: int = 6
    batch_size: int = 2
    """Questions per optimiser step."""
    lr: float = 1e-6
    clip: float = 1.0
    seed: int = 0
    checkpointing: bool = False
    scoring: str = "shared_prefix"
    reference: str = "cached"
    trl_head: str = "stock"
    """`compact`: TRL's LM head at response positions only, as on a GPU; on a CPU stock TRL applies it everywhere."""
    trl_batch: int | None = None
    """Pairs that TRL takes at once; None: a pair of each question of the step."""

    def load(self) -> VLM:
        """The model that training starts from."""
        source = PretrainedLlava(path=str(self.model), gradient_checkpointing=self.checkpointing)
        return random_model(str(self.model), self.examples(), source) if str(self.model) in BUILD else source.load()

    def examples(self) -> list[Example]:
        """As many examples as one epoch of `steps` whole batches needs."""
        found = MMSafePO(path=self.data, check_images="header").test().examples
        wanted = self.steps * self.batch_size
        if len(found) < wanted:
            raise UserError(
                f"{self.data}: {len(found)} rows, where {self.steps} steps of {self.batch_size} need {wanted}; lower "
                "--steps, or write more rows with `python -m benchmarks.data`"
            )
        for name in OBJECTIVES[self.objective].responses:
            if lacking := [example.id for example in found[:wanted] if name not in example.responses]:
                raise UserError(
                    f"{self.data}: row {lacking[0]} has no '{name}' response; see `benchmarks.data --source`"
                )
        return found[:wanted]

    def pairs(self) -> list[tuple[str, list[int]]]:
        """TRL's micro-batches in the order of training: what the chosen response is paired with, in which examples."""
        size = self.trl_batch or self.batch_size
        return [
            (other, [draw.item for draw in batch[start : start + size]])
            for batch in EpochBatches(self.steps * self.batch_size, self.batch_size, self.seed)
            for other in PAIRS[self.objective]
            for start in range(0, len(batch), size)
        ]


class Lap(NamedTuple):
    """CPU-seconds and seconds since a clock was last read."""

    cpu: float
    wall: float


class Clock:
    """Time since it was last read."""

    def __init__(self) -> None:
        self.lap()

    def lap(self) -> Lap:
        """Read the clock, once a GPU has done what it was given, and start it again."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        before = getattr(self, "_read", (cpu, wall))
        self._read = (cpu, wall)
        return Lap(cpu - before[0], wall - before[1])


class Step(NamedTuple):
    """One optimiser step."""

    loss: float
    grad_norm: float
    collate: Lap
    """Images decoded, texts tokenised, batch laid out."""
    compute: Lap
    """Everything else."""

    @property
    def cpu(self) -> float:
        """CPU-seconds of the whole step."""
        return self.collate.cpu + self.compute.cpu

    @property
    def wall(self) -> float:
        """Seconds of the whole step."""
        return self.collate.wall + self.compute.wall


def tokens(llava: VLM, examples: Sequence[Example], objective: str) -> list[int]:
    """Tokens of each example that carry information: the prompt once, and every response; the same for both sides."""
    encoder = llava.encoder()
    names = OBJECTIVES[objective].responses
    return [
        len(encoder.prompt_ids(example)) + sum(len(encoder.response_ids(example.responses[name])) for name in names)
        for example in examples
    ]
