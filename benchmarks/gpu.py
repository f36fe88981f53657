"""`python -m benchmarks.gpu`: a BPO step at LLaVA-1.5's real shapes, in tokens per second.

Random weights, bf16, AdamW; full fine-tuning of language model and projector, or LoRA (r 128) on the language model.
Beside it the share of the matmul peak, which is measured in the same run as the best rate of square bf16 products.
`--size tiny` runs anywhere and shows that it works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from peft import LoraConfig
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.models import SIZES, make_config
from benchmarks.scoring import WAYS, Case, Special, batch_of
from mmsafe.reporting.table import print_tables

LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def config(size: str) -> LlavaConfig:
    """LLaVA-1.5's own, or a small one of `benchmarks.models`."""
    if size in SIZES:
        return make_config(SIZES[size], Special())
    width, inner, layers, heads = {"llava7b": (4096, 11008, 32, 32), "llava13b": (5120, 13824, 40, 40)}[size]
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        pad_token_id=Special.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    image = Special().convert_tokens_to_ids("<image>")
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=576)


def build(size: str, device: str, lora: bool, checkpointing: bool) -> Any:
    """The model on its device, in bf16 (fp32 on a CPU), with what is trained marked so."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model: Any = LlavaForConditionalGeneration._from_config(config(size), dtype=dtype)
    model.model.vision_tower.requires_grad_(False)
    if lora:
        model.add_adapter(LoraConfig(r=128, lora_alpha=256, target_modules=LAYERS))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def matmul_peak(device: str, size: int) -> float:
    """Best of ten rates of a square product, in FLOP per second."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return max(2 * size**3 / timed(lambda: a @ b, device) for _ in range(10))


def timed(work: Any, device: str) -> float:
    """Wall seconds until the device is done."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def useful_flops(model: Any, tokens: int, targets: int, lora: bool) -> float:
    """2 FLOP per weight and token forward, as much for each gradient; the head at response tokens only.

    Attention scores, norms and the tower are left out, recomputation is not useful: the share is a lower bound.
    """
    body = sum(
        p.numel() for n, p in model.model.language_model.named_parameters() if "embed" not in n and "lora" not in n
    )
    passes = 2 if lora else 3
    return 2.0 * passes * (body * tokens + model.lm_head.weight.numel() * targets)


def measure(size: str, device: str, lora: bool, checkpointing: bool, case: Case, steps: int) -> dict[str, Any]:
    """One row for each way of scoring."""
    model = build(size, device, lora, checkpointing)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    peak = matmul_peak(device, 8192 if device == "cuda" else 512)
    found: dict[str, Any] = {"peak_tflops": peak / 1e12}
    for name, scoring in WAYS.items():
        batch = batch_of(scoring, model, case).to(device)
        real = int((batch.segment >= 0).sum()) if hasattr(batch, "segment") else int(batch.attention_mask.sum())

        def step(scoring: Any = scoring, batch: Any = batch) -> None:
            rows = scoring.log_probs(model, scoring.with_features(model, batch))
            torch.stack([row.log_probs.sum() for row in rows.values()]).sum().mul(1e-3).backward()
            optimiser.step()
            optimiser.zero_grad()

        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median([timed(step, device) for _ in range(steps + 1)][1:])
        flops = useful_flops(model, real, batch.targets, lora)
        found[name] = {
            "seconds": seconds,
            "examples_per_second": case.batch / seconds,
            "tokens_per_second": real / seconds,
            "share_of_peak": flops / seconds / peak,
            "gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        }
    return found


def main() -> None:
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "llava7b", "llava13b"], default="llava7b")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--response", type=int, default=80)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = Case(args.size, 40, args.response, 3, args.batch_size)
    found = measure(args.size, device, args.lora, args.checkpointing, case, args.steps)
    if args.json:
        print(json.dumps({**vars(args), "device": device, **found}))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    table = Table(
        title=f"{args.size}, {'LoRA' if args.lora else 'full'}, {name}: {found['peak_tflops']:.1f} TFLOP/s peak"
    )
    for column in ("scoring", "s per step", "examples/s", "tokens/s", "share of peak", "GiB"):
        table.add_column(column, justify="right")
    for way in WAYS:
        row = found[way]
        gib = "–" if row["gib"] is None else f"{row['gib']:.1f}"
        rates = (f"{row['seconds']:.3f}", f"{row['examples_per_second']:.2f}", f"{row['tokens_per_second']:.0f}")
        table.add_row(way, *rates, f"{row['share_of_peak']:.2f}", gib)
    print_tables([table])


if __name__ == "__main__":
    main()
