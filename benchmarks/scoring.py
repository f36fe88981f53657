"""`python -m benchmarks.scoring`: CPU-seconds and peak memory of a training step's parts, padded scoring.

One thread, medians, parts interleaved; compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from mmsafe.data.collate import Item
from mmsafe.data.microworld.reader import MicroWorld
from mmsafe.models.tiny import TinyModel
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.sft import SFT
from mmsafe.reporting.table import print_tables
from mmsafe.scoring import Padded

OBJECTIVES = {"sft": SFT(), "dpo": DPO(), "bpo": BPO()}


def parts(batch_size: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    llava = TinyModel(pretraining=None).load()
    encoder, scoring = llava.encoder(), Padded()
    examples = [e.with_responses(blind=e.responses["rejected"]) for e in MicroWorld(size=batch_size).train().examples]
    items = [Item(example) for example in examples]
    found: dict[str, Callable[[], Any]] = {}
    for name, objective in OBJECTIVES.items():
        collate = scoring.collator(encoder, objective.groups, None)
        batch = collate(items)

        def forward(batch: Any = batch) -> torch.Tensor:
            rows = scoring.log_probs(llava.model, batch)
            return torch.stack([row.log_probs.sum() for row in rows.values()]).sum()

        def step(forward: Callable[[], torch.Tensor] = forward) -> None:
            forward().backward()
            llava.model.zero_grad()

        def reference(forward: Callable[[], torch.Tensor] = forward) -> None:
            with torch.no_grad():
                forward()

        found |= {f"{name}: collate": lambda collate=collate: collate(items)}
        found |= {f"{name}: forward + backward": step, f"{name}: reference forward": reference}
    return found


def measure(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU-seconds of each part over interleaved rounds, the first one dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, part in work.items():
            begin = time.process_time()
            part()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Print a table, or JSON with `--json`."""
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(parts(args.batch_size), args.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.json:
        print(json.dumps({"cpu_seconds": found, "peak_rss_mib": peak, "batch_size": args.batch_size}))
        return
    base = found["dpo: forward + backward"]
    table = Table(title=f"padded scoring, tiny LLaVA, {args.batch_size} examples, one thread; peak RSS {peak:.0f} MiB")
    for column in ("part", "CPU-s", "of DPO's step"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / base:.2f}")
    print_tables([table])


if __name__ == "__main__":
    main()
