"""`python -m benchmarks.blind`: blind responses per CPU-second, ours beside one `model.generate` call per prompt.

One thread, medians, ways interleaved; compare ratios within one run only. Text is counted in tokens with its end.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from mmsafe.core.settings import Generation
from mmsafe.data.example import Example
from mmsafe.generation.generate import generate
from mmsafe.generation.responses import draws_of
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.vlm import VLM
from mmsafe.reporting.table import print_tables, table_of

Way = Callable[[int], list[int]]
"""Samples with this seed; returns the length of each sample in tokens."""


def naive(llava: VLM, prompts: list[Example], seed: int) -> list[int]:
    """As a user of transformers or TRL would write it."""
    processor, model = llava.processor, llava.model.eval()
    tokenizer, lengths = processor.tokenizer, []
    torch.manual_seed(seed)
    for prompt in prompts:
        text = processor.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=tokenizer.bos_token + text, return_tensors="pt")
        output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=256)
        new = output[0, inputs["input_ids"].shape[1] :]
        tokenizer.decode(new, skip_special_tokens=True)
        lengths.append(len(new))
    return lengths


def ours(llava: VLM, prompts: list[Example], samples: int, batch_size: int, seed: int) -> list[int]:
    """What `mmsafe.blind` does beside its cache: so many samples of every prompt."""
    asked = draws_of(prompts * samples, greedy=False)
    settings = Generation(batch_size=batch_size, seed=seed)
    made = [response for batch in generate(llava, asked, settings) for _, response in batch]
    encoder = llava.encoder()
    return [len(encoder.response_ids(response.text, cut=not response.finished)) for response in made]


def measure(ways: dict[str, Way], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over interleaved rounds, the first one dropped: samples and tokens per CPU-second, tokens per sample."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for seed in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            lengths = way(seed)
            seconds = time.process_time() - begin
            rates = {"samples_per_cpu_second": len(lengths) / seconds, "tokens_per_cpu_second": sum(lengths) / seconds}
            found[name].append({**rates, "tokens_per_sample": statistics.mean(lengths)})
    return {
        name: {key: statistics.median(row[key] for row in rows[1:]) for key in rows[0]} for name, rows in found.items()
    }


def main() -> None:
    """Print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    llava = TinyModel().load()
    prompts = [example.blinded() for example in MicroWorld(size=args.prompts).train().examples]
    distinct = len({prompt.prompt_key() for prompt in prompts})
    ways: dict[str, Way] = {"naive": partial(naive, llava, prompts)}
    for count in dict.fromkeys((1, args.samples)):
        ways[f"ours, {count} each"] = partial(ours, llava, prompts, count, args.batch_size)
    found = measure(ways, args.rounds)
    if args.json:
        print(json.dumps({"ways": found, "prompts": len(prompts), "distinct": distinct, "batch_size": args.batch_size}))
        return
    title = (
        f"blind sampling, tiny LLaVA, {len(prompts)} prompts ({distinct} distinct), batch {args.batch_size}, one thread"
    )
    columns = ("way", "samples / CPU-s", "tokens / CPU-s", "tokens a sample", "of naive")
    base, cells = found["naive"]["samples_per_cpu_second"], []
    for name, row in found.items():
        values = (row["samples_per_cpu_second"], row["tokens_per_cpu_second"])
        rates = (f"{value:.0f}" for value in values)
        cells.append([name, *rates, f"{row['tokens_per_sample']:.1f}", f"{values[0] / base:.1f}×"])
    print_tables([table_of(title, columns, cells)])


if __name__ == "__main__":
    main()
