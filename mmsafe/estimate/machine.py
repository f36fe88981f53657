"""The machine: versions, GPUs, memory and disks; and the options of `mmsafe.doctor` that stand for another one."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmsafe import __version__
from mmsafe.core.options import Count, Positive, options

GIB = 2**30
PACKAGES = ("torch", "transformers", "pytorch-lightning", "peft", "deepspeed", "hydra-core", "datasets", "wandb")
RESERVE = 1.0
"""GiB of a GPU that no estimate knows of: CUDA's context, workspaces of cuBLAS and NCCL, fragments."""


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


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    name: str
    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.name}: {self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free"


def versions() -> dict[str, str]:
    """What is installed, by name; a package that is missing is left out."""
    found = {"mmsafe": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    import torch

    return found | {"CUDA": torch.version.cuda or "none"}


def gpus() -> list[Memory]:
    """This machine's GPUs as CUDA lists them."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Memory(f"GPU {index}, {torch.cuda.get_device_name(index)}", free, total))
    return found


def host() -> Memory:
    """The host's memory, or what a container may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, meminfo = total, Path("/proc/meminfo")
    if meminfo.exists() and (match := re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), flags=re.M)):
        free = int(match[1]) * 1024
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
    return Memory("host memory", free, total)


def disk(folder: Path) -> int:
    """Bytes free where `folder` is, or would be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _number(path: Path) -> int | None:
    """A control group's number; None where there is no such file, or no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
