"""Which of a run's processes this one is, and how they are started: one per device, by torchrun or SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STOP = (signal.SIGTERM, signal.SIGINT)
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""Overrides of all processes but the first, which would write the same files again."""


def rank() -> int:
    """Number of this process among those of the run; 0 where it is alone."""
    return _number("RANK", "SLURM_PROCID")


def world_size() -> int:
    """Processes of the run."""
    return max(1, _number("WORLD_SIZE", "SLURM_NTASKS"))


def local_rank() -> int:
    """Number of this process on its machine, which is the number of its device."""
    return _number("LOCAL_RANK", "SLURM_LOCALID")


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def started() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def torchrun(command: str, words: Sequence[str], folder: Path, devices: int) -> int:
    """Run `python -m mmsafe.<command>` as `devices` processes that share a run folder; returns the exit status.

    SIGTERM and SIGINT are passed on, so that whoever stops this process stops them all.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    own = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # torchrun would set it, and say so at length
    whole = [*launcher, "-m", f"mmsafe.{command}", *words, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(whole, env=os.environ | own)
    before = {number: signal.signal(number, lambda n, _: process.send_signal(n)) for number in STOP}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(*names: str) -> int:
    """torchrun's variable, or SLURM's where several tasks run."""
    own, slurm = names
    if own in os.environ:
        return int(os.environ[own])
    return int(os.environ.get(slurm, "0")) if int(os.environ.get("SLURM_NTASKS", "1")) > 1 else 0
