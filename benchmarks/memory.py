"""Peak memory of one side of `benchmarks.step`, alone in a process of its own."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.sides import Plan
from mmsafe.core.errors import UserError

STEPS = 3
"""More would hardly raise a peak; the optimiser's state exists from the first on."""
STATUS = Path("/proc/self/status")


def in_child(arguments: Sequence[str], side: str, threads: int) -> dict[str, float]:
    """Run this command again, as `side` alone; the environment, and so malloc's settings, are this process's."""
    words = [sys.executable, "-m", "benchmarks.step", *arguments, "--memory", side]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the memory run of '{side}' failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(plan: Plan, side: str) -> dict[str, float]:
    """MiB: the peak from the loaded policy on, what the imports alone take, and the difference."""
    plan = replace(plan, steps=min(plan.steps, STEPS))
    if side == "ours":
        from benchmarks.ours import train

        imports = resident()
        examples, llava = plan.examples(), plan.load()
        forget_peak()
        train(plan, examples, lambda: None, llava)
    else:
        from benchmarks.trl_side import TrlSide

        imports = resident()
        examples = plan.examples()
        trl = TrlSide(plan, examples)
        trl.start()
        forget_peak()
        for _ in range(plan.steps):
            trl.step()
    highest = peak()
    return {"peak": highest, "imports": imports, "above_imports": highest - imports}


def resident() -> float:
    """MiB that this process uses now."""
    return _status("VmRSS") if STATUS.exists() else peak()


def peak() -> float:
    """MiB that this process used at most, since `forget_peak` where the kernel knows of it."""
    if STATUS.exists():
        return _status("VmHWM")
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def _status(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Start VmHWM again from what is used now; where the kernel has no such switch, loading counts too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
