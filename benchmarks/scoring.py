"""`python -m benchmarks.scoring`: packed against padded rows, over prompt length, response length and their number.

CPU-seconds of forward and backward, one thread, medians of interleaved rounds; peak memory above that of model and
gradients, each measured in a process of its own. Compare ratios within one run only.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.memory import forget_peak, peak, resident
from benchmarks.models import SIZES, make_config
from mmsafe.data.example import Example, Turn
from mmsafe.models.family import ImageInputs, family_of
from mmsafe.objectives.base import ScoredRow
from mmsafe.reporting.table import print_tables, table_of
from mmsafe.scoring.collate import Item
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix

WAYS: dict[str, Scoring] = {"padded": Padded(), "shared_prefix": SharedPrefix()}
IMAGE_ID = 4


@dataclass(frozen=True)
class Case:
    """One shape of batch."""

    size: str
    text: int
    """Prompt tokens beside the image."""
    response: int
    responses: int
    batch: int = 2


class Special:
    """The special ids of a tokenizer that needs no words."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def convert_tokens_to_ids(self, _: str) -> int:
        return IMAGE_ID


class Numbers:
    """An encoder for texts that are nothing but their length."""

    pad_id, image_token, family = Special.pad_token_id, IMAGE_ID, family_of("llava")

    def __init__(self, model: Any) -> None:
        self.image_tokens, self.image_size = model.config.image_seq_length, model.config.vision_config.image_size

    def prompt(self, example: Example) -> tuple[list[int], list[ImageInputs]]:
        return self.prompt_ids(example), []

    def prompt_ids(self, example: Example) -> list[int]:
        return [Special.bos_token_id, *[IMAGE_ID] * self.image_tokens, *range(5, 5 + int(example.turns[0].text))]

    def response_ids(self, text: str, *, cut: bool = False) -> list[int]:
        return [(7 * i + len(text)) % 400 + 5 for i in range(int(text))]

    def image_inputs(self, images: Any) -> list[ImageInputs]:
        return [ImageInputs("", {"pixel_values": self._pixels(image.seed)}) for image in images]

    def _pixels(self, seed: int) -> torch.Tensor:
        return torch.randn(1, 3, self.image_size, self.image_size, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Blank:
    """An image of which only the identity matters."""

    seed: int

    @property
    def key(self) -> str:
        return str(self.seed)


def batch_of(scoring: Scoring, model: Any, case: Case) -> Any:
    """A batch of the case, laid out for this way of scoring; lengths are unequal, as they are in life."""
    names = [f"response {i}" for i in range(case.responses)]
    said = {name: str(case.response - 3 * i) for i, name in enumerate(names)}
    turns = [Turn("user", str(case.text - 4 * i), (0,)) for i in range(case.batch)]
    images: list[Any] = [Blank(i) for i in range(case.batch)]
    items = [Item(Example("", (turn,), (image,), said)) for turn, image in zip(turns, images, strict=True)]
    encoder: Any = Numbers(model)
    return scoring.collator(encoder, ({name: ScoredRow(name) for name in names},))(items)


def steps(case: Case, model: Any) -> dict[str, Callable[[], None]]:
    """Collate, forward and backward of the case, by way of scoring."""

    def step(scoring: Scoring) -> None:
        batch = batch_of(scoring, model, case)
        rows = scoring.log_probs(model, scoring.with_features(model, batch))
        torch.stack([row.log_probs.sum() for row in rows.values()]).sum().backward()
        model.zero_grad(set_to_none=False)  # gradients stay allocated, as they are in training

    return {name: lambda scoring=scoring: step(scoring) for name, scoring in WAYS.items()}


def measure(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU-seconds of each part over interleaved rounds, the first one dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, part in work.items():
            begin = time.process_time()
            part()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def memory(case: Case, way: str) -> float:
    """MiB that one step needs above the model and its gradients, in a process that has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers.models.llava", "mmsafe.scoring.packing"])  # imported once
    found: Any = context.Queue()
    process = context.Process(target=_step_memory, args=(case, way, found))
    process.start()
    size: float = found.get(timeout=600)
    process.join()
    return size


def _step_memory(case: Case, way: str, found: Any) -> None:
    torch.set_num_threads(1)
    model = build(case.size)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) / 2**20
    step = steps(case, model)[way]
    forget_peak()
    before = resident()
    step()
    found.put(peak() - before - gradients)


def build(size: str) -> Any:
    """The model with random weights, its tower frozen."""
    model: Any = LlavaForConditionalGeneration(make_config(SIZES[size], Special()))
    model.model.vision_tower.requires_grad_(False)
    return model


def cases(size: str) -> Iterator[Case]:
    """The middle case, then one thing changed at a time."""
    yield Case(size, 40, 80, 3)
    for text in (10, 160):
        yield Case(size, text, 80, 3)
    for response in (32, 128, 256):
        yield Case(size, 40, response, 3)
    for responses in (1, 2, 4, 8):
        yield Case(size, 40, 80, responses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid144")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build(args.size)
    found = []
    for case in cases(args.size):
        work = steps(case, model)
        sizes = {name: memory(case, name) for name in work}
        seconds = measure(work, args.rounds)
        found.append({**asdict(case), "cpu_seconds": seconds, "mib": sizes})
    if args.json:
        print(json.dumps(found))
        return
    prompt = model.config.image_seq_length
    title = f"{args.size}: {model.num_parameters() / 1e6:.0f} M parameters, {prompt} image tokens, batch of 2"
    columns = ("prompt", "response", "responses", "padded, CPU-s", "shared, CPU-s", "ratio", "padded, MiB", "shared")
    cells = []
    for row in found:
        (slow, fast), (large, small) = row["cpu_seconds"].values(), row["mib"].values()
        shape = (1 + prompt + row["text"], row["response"], row["responses"])
        times = (f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.2f}")
        cells.append([*map(str, shape), *times, f"{large:.0f}", f"{small:.0f}"])
    print_tables([table_of(title, columns, cells, left=0)])


if __name__ == "__main__":
    main()
