"""The machine: versions, GPUs, memory and disks; and the options of `mmsafe.doctor` that stand for another one."""

import os
import platform
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from mmsafe import __version__
from mmsafe.core.options import Count, Positive, options
from mmsafe.experiment.train_config import TrainConfig

GIB = 2**30
PACKAGES = ("torch", "transformers", "pytorch-lightning", "peft", "deepspeed", "hydra-core", "datasets", "wandb")


@options
class Doctor:
    """The machine and the lengths that `mmsafe.doctor` is asked about."""

    gpu_memory_gib: Positive | None = None
    """Of each GPU; null: of this machine's GPUs."""
    host_memory_gib: Positive | None = None
    """Of each host; null: what is free on this machine."""
    devices: Count | None = None
    """GPUs that a run uses, over all its hosts; null: as `trainer` says."""
    devices_per_node: Count | None = None
    """GPUs of one host; null: all of them."""
    prompt_tokens: Count | None = None
    """Longest prompt, image tokens included; null: the image and 512 tokens of text, within `lengths.max_length`."""
    response_tokens: Count | None = None
    """Longest response; null: `generation.max_new_tokens`."""


@options
class DoctorConfig(TrainConfig):
    """`conf/doctor.yaml`, typed: a training run, and the machine it is meant for."""

    doctor: Doctor
    runs_here: ClassVar[bool] = False


@dataclass(frozen=True)
class Memory:
    """Memory of a device or of the host, in bytes."""

    name: str
    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.name}: {self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free"


def versions() -> dict[str, str]:
    """What is installed, by name; a package that is missing is left out."""
    import torch

    installed = {"mmsafe": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed | {"CUDA": torch.version.cuda or "none"}


def gpus() -> list[Memory]:
    """This machine's GPUs as CUDA lists them."""
    from torch import cuda

    numbers = range(cuda.device_count())
    return [Memory(f"GPU {i}, {cuda.get_device_name(i)}", *cuda.mem_get_info(i)) for i in numbers]


def host() -> Memory:
    """The host's memory, or what a container may use of it."""
    free = total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):  # no Linux
        if available := re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), flags=re.M):
            free = int(available[1]) * 1024
    with suppress(OSError, ValueError):  # no control group, or one without a limit, `max`
        limit, used = (int((Path("/sys/fs/cgroup") / f"memory.{name}").read_text()) for name in ("max", "current"))
        if limit < total:
            total, free = limit, min(free, limit - used)
    return Memory("host memory", free, total)


def disk(folder: Path) -> int:
    """Bytes free where `folder` is, or would be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
