"""Which of a run's processes this one is, and how they are started: one per device, by torchrun or SLURM."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

GRACE = 300
"""Seconds that the processes of a machine have for the end of a step and a checkpoint, before they are killed."""
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""Overrides of all processes but the first, which would write the same files again."""
PARENT = "MMSAFE_PARENT"
"""Variable with the number of the process that started this one by `torchrun`."""


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


def barrier() -> None:
    """Wait for all processes of a training run."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()


def gathered(value: Any) -> list[Any]:
    """The values that all processes of a training run pass, by rank; every process has to call it."""
    from torch import distributed

    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def started() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def torchrun(command: str, words: Sequence[str], devices: int) -> int:
    """Run `python -m mmsafe.<command>` as `devices` processes; returns the exit status.

    SIGTERM and SIGINT are passed on, so that whoever stops this process stops them all.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    os.environ[PARENT] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", f"mmsafe.{command}", *words)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    finally:
        del os.environ[PARENT]
    return 0


def end_with_parent() -> None:
    """Have this process killed as soon as the one that started it by `torchrun` is dead, however that died."""
    parent = int(os.environ.get(PARENT, "0"))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()  # elsewhere, and where it is dead by now


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _number(variable: str, slurm: str) -> int:
    """torchrun's variable, or SLURM's where several tasks run."""
    if variable in os.environ:
        return int(os.environ[variable])
    return int(os.environ.get(slurm, "0")) if int(os.environ.get("SLURM_NTASKS", "1")) > 1 else 0
