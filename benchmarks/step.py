"""`python -m benchmarks.step --model DIR --data JSON`: a training step of ours beside one of TRL's `DPOTrainer`.

Same weights, samples, order, fp32, AdamW, learning rate and clipping; ours runs in `mmsafe.training.fit.fit`, and TRL
makes a step after each of ours. Every sample's tokens and pixels are compared first, losses and gradient norms
afterwards. Peak memory comes from two further processes. Models and data: `benchmarks.models`, `benchmarks.data`.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.report import parity, print_report
from benchmarks.sides import OBJECTIVES, PAIRS, Plan, Step, tokens
from mmsafe.core.errors import UserError


def compare(plan: Plan) -> dict[str, Any]:
    """Run both sides step by step in this process; raises `UserError` if their inputs differ."""
    from benchmarks.ours import train
    from benchmarks.same_ids import check_same_inputs
    from benchmarks.trl_side import TrlSide

    examples, llava = plan.examples(), plan.load()
    length = statistics.mean(tokens(llava, examples, plan.objective))
    trl = TrlSide(plan, examples)
    sequences = check_same_inputs(trl.collated(), llava, examples, plan)
    trl.start()
    ours, reference = train(plan, examples, trl.step, llava)
    return {
        "parity": parity(ours, trl.steps, len(PAIRS[plan.objective])),
        "identical_sequences": sequences,
        "tokens_per_question": length,
        "reference_pass": {name: value / plan.steps for name, value in reference._asdict().items()},  # per step
        "ours": _by_step(ours),
        "trl": _by_step(trl.steps),
    }


def _by_step(steps: Sequence[Step]) -> dict[str, list[float]]:
    return {
        "loss": [step.loss for step in steps],
        "grad_norm": [step.grad_norm for step in steps],
        "cpu": [step.cpu for step in steps],
        "wall": [step.wall for step in steps],
        "collate_cpu": [step.collate.cpu for step in steps],
        "compute_cpu": [step.compute.cpu for step in steps],
    }


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", type=Path, required=True, help="a LLaVA folder, or a name of `benchmarks.families`")
    found.add_argument("--data", type=Path, required=True, help="JSON in MMSafe-PO's format")
    found.add_argument("--against", choices=["trl"], default="trl")
    found.add_argument("--objective", choices=OBJECTIVES, default="dpo")
    found.add_argument("--steps", type=int, default=6, help="the first and last are not timed (default: 6)")
    found.add_argument("--batch-size", type=int, default=2, help="questions per optimiser step (default: 2)")
    found.add_argument("--scoring", choices=["shared_prefix", "padded"], default="shared_prefix", help="of ours")
    found.add_argument("--reference", choices=["cached", "online"], default="cached", help="ours; TRL's is online")
    head = "compact: TRL's LM head at response positions only, as on a GPU; on a CPU it is applied everywhere"
    found.add_argument("--trl-head", choices=["stock", "compact"], default="stock", help=head)
    found.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    found.add_argument("--lr", type=float, default=1e-6)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--no-memory", action="store_true", help="leave out the two processes that measure memory")
    found.add_argument("--json", action="store_true", help="print the numbers only")
    found.add_argument("--memory", choices=["ours", "trl"], help=argparse.SUPPRESS)
    return found


def plan_of(args: argparse.Namespace) -> Plan:
    """The part of the arguments that both sides must agree on."""
    names = {field.name for field in fields(Plan)} & vars(args).keys()
    return Plan(**{name: getattr(args, name) for name in names})


def run(words: Sequence[str]) -> int:
    """The command; returns its exit status, which is 1 where the two sides disagree."""
    args = parser().parse_args(words)
    if importlib.util.find_spec("trl") is None:
        raise UserError("--against trl: TRL is not installed; `pip install trl==1.16.0`")
    import torch

    torch.set_num_threads(args.threads)
    plan = plan_of(args)
    if args.memory:
        with redirect_stdout(sys.stderr):
            peak = memory.measure(plan, args.memory)
        print(json.dumps(peak))
        return 0
    sides = () if args.no_memory else ("ours", "trl")
    with redirect_stdout(sys.stderr):  # what libraries say, such as DeepSpeed when TRL imports it
        compared = compare(plan)
    found = {
        "plan": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(plan).items()},
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "pytorch-lightning")},
        "threads": args.threads,
        "malloc": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
        **compared,
        "memory_mib": {side: memory.in_child(words, side, args.threads) for side in sides},
    }
    print_report(found, as_json=args.json)
    return 0 if found["parity"]["agree"] else 1


def main() -> None:
    try:
        sys.exit(run(sys.argv[1:]))
    except UserError as error:
        print(f"benchmarks.step: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
