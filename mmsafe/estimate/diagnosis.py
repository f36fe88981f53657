"""What `mmsafe.doctor` finds out and prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsafe.core.cache import cache_dir
from mmsafe.estimate.advice import Advice, alternatives, free_of_charge
from mmsafe.estimate.machine import GIB, RESERVE, Memory, disk, gpus, host, versions
from mmsafe.estimate.memory import MemoryEstimate, estimate
from mmsafe.estimate.plan import MemoryPlan, Shape
from mmsafe.estimate.shape import shape_of
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.reference.reference import AdapterOff, Frozen
from mmsafe.scoring.ways import Padded

if TYPE_CHECKING:
    from pathlib import Path

    from mmsafe.estimate.doctor_config import DoctorConfig
    from mmsafe.runs.run_context import RunContext

TEXT = 512
"""Tokens of text that a prompt is taken to have."""
TIGHT = 0.9
"""Share of the memory at hand from which an estimate is too close to trust: it is within 15 % of what is measured."""


@dataclass(frozen=True)
class Room:
    """Memory at hand, in bytes; None where it is not known."""

    name: str
    device: float | None
    host: float | None
    on_gpu: bool

    def fits(self, found: MemoryEstimate) -> bool | None:
        """Whether a step fits; None where the memory is not known."""
        if self.device is None:
            return None
        return found.peak <= self.device and (self.host is None or found.host <= self.host)


def diagnose(config: DoctorConfig, run: RunContext) -> bool:
    """Print versions, machine, estimate and advice; False if the run does not fit."""
    here, memory = gpus(), host()
    _print_machine(here, memory, run.folder)
    room = room_for(config, here, memory)
    shape = shape_of(config.model)
    if shape is None:
        print(f"\nmodel.path={getattr(config.model, 'path', None)}: not on this machine, so its size is not known")
        return True
    plan = plan_for(config, shape, room)
    found = estimate(shape, plan)
    _print_estimate(plan, found, room, run.choices)
    fits = room.fits(found)
    if fits is False:
        _print_advice(config, shape, plan, room)
    if not here and config.doctor.gpu_memory_gib is None:
        print("no GPU here; `doctor.gpu_memory_gib=80 doctor.devices=8` asks whether it would fit on such a machine")
    return fits is not False


def room_for(config: DoctorConfig, here: list[Memory], memory: Memory) -> Room:
    """The memory that a run would have: that which was asked about, this machine's GPUs, or the host's."""
    asked = config.doctor
    on_host = asked.host_memory_gib * GIB if asked.host_memory_gib else None
    if asked.gpu_memory_gib is not None:
        name = f"a GPU of {asked.gpu_memory_gib:g} GiB, less {RESERVE:g} for CUDA"
        return Room(name, (asked.gpu_memory_gib - RESERVE) * GIB, on_host, on_gpu=True)
    if here and config.trainer.accelerator != "cpu":
        free = min(gpu.free for gpu in here)
        name = f"the free part of a GPU here, less {RESERVE:g} for CUDA"
        return Room(name, free - RESERVE * GIB, on_host or memory.free, on_gpu=True)
    if devices_of(config) > 1 or config.strategy.name not in ("auto", "ddp"):
        return Room("not known: set doctor.gpu_memory_gib", None, on_host, on_gpu=True)
    return Room("the host's free memory: it would run on the CPU", on_host or memory.free, None, on_gpu=False)


def plan_for(config: DoctorConfig, shape: Shape, room: Room) -> MemoryPlan:
    """The config as the estimator reads it."""
    model, asked = config.model, config.doctor
    prompt, response = lengths(config, shape)
    precision = config.trainer.precision
    if precision == "auto":
        precision = "bf16-mixed" if room.on_gpu else "32-true"
    return MemoryPlan(
        batch_size=config.data.batch_size,
        responses=tuple(Counter(row.image for row in config.objective.groups[0].values()).values()),
        prompt=prompt,
        response=response,
        scoring="padded" if isinstance(config.scoring, Padded) else "shared_prefix",
        attention=getattr(model, "attention", "sdpa"),
        dtype=getattr(model, "dtype", "float32"),
        precision=precision,
        gradient_checkpointing=getattr(model, "gradient_checkpointing", False),
        accumulate=config.accumulate,
        global_batch=config.optimizer.global_batch_size is not None,
        reference=_reference(config),
        train_language=model.train.language,
        train_projector=model.train.projector,
        train_vision=model.train.vision,
        strategy=config.strategy.name,
        devices=devices_of(config),
        devices_per_node=asked.devices_per_node or (None if asked.devices else config.trainer.devices),
        peft=config.peft.method,
        lora_rank=0 if config.peft.method == "none" else config.peft.rank,
        on_gpu=room.on_gpu,
    )


def lengths(config: DoctorConfig, shape: Shape) -> tuple[int, int]:
    """Tokens of the longest prompt and response: given, or assumed within `lengths.max_length`."""
    asked, limit = config.doctor, config.lengths.max_length
    response = asked.response_tokens or config.generation.max_new_tokens
    prompt = asked.prompt_tokens or shape.image_tokens + TEXT
    if limit is not None:
        prompt = min(prompt, max(1, limit - min(response, limit // 2)))
        response = max(1, min(response, limit - prompt))
    return prompt, response


def devices_of(config: DoctorConfig) -> int:
    """Those asked about, else all of the run."""
    return config.doctor.devices or config.trainer.processes


def _reference(config: DoctorConfig) -> str:
    if not config.objective.needs_reference:
        return "none"
    if isinstance(config.reference, Frozen):
        return "frozen"
    return "adapter_off" if isinstance(config.reference, AdapterOff) else "cached"


def _print_machine(here: list[Memory], memory: Memory, runs: Path) -> None:
    print(" · ".join(f"{name} {found}" for name, found in versions().items()))
    print("\n".join(map(str, here)) or "no GPU")
    print(memory)
    for name, folder in {"cache": cache_dir(""), "run folders": runs}.items():
        print(f"{name}: {disk(folder) / GIB:.1f} GiB free in {folder}")


def _print_estimate(plan: MemoryPlan, found: MemoryEstimate, room: Room, choices: Mapping[str, str]) -> None:
    on = f"{plan.devices} {'GPU' if room.on_gpu else 'CPU process'}{'s' if plan.devices > 1 else ''}"
    how = f"{plan.precision}, strategy {plan.strategy}, {plan.scoring}"
    print(f"\nmodel={choices['model']} objective={choices['objective']} on {on}: {how}")
    responses = f"{sum(plan.responses)} responses of {plan.response}"
    print(
        f"longest batch: {plan.batch_size} × (prompt of {plan.prompt} + {responses} tokens), doctor.prompt_tokens and"
    )
    print(f"doctor.response_tokens change it; as {plan.lines} × {plan.time} tokens")
    print(f"memory per device is highest at the {found.moment}:")
    for item in found.moments[found.moment]:
        print(f"  {item.name:14s}{_size(item.size)}   {item.inputs}")
    print(f"  {'total':14s}{_size(found.peak)}")
    others = [f"{name} {found.at(name) / GIB:.2f}" for name in found.moments if name != found.moment]
    print(f"  at other moments: {', '.join(others)}")
    if found.host:
        print(f"  {'on each host':14s}{_size(found.host)}   offloaded states with their buffers")
    at_hand = "" if room.device is None else f"{room.device / GIB:.2f} GiB, "
    print(f"at hand: {at_hand}{room.name}")
    print(f"verdict: {_verdict(found, room)}")


def _verdict(found: MemoryEstimate, room: Room) -> str:
    fits = room.fits(found)
    if room.device is None or fits is None:
        return "unknown"
    if not fits:
        return "does not fit"
    return "fits, but barely" if found.peak > TIGHT * room.device else "fits"


def _print_advice(config: DoctorConfig, shape: Shape, plan: MemoryPlan, room: Room) -> None:
    free = free_of_charge(shape, plan, checkpoints=isinstance(config.model, PretrainedLlava))
    best = free[-1] if free else None
    if free:
        print("same result in less memory, each with those above it:")
    for advice in free:
        _print_one(advice, room)
    if best is not None and room.fits(best.estimate):
        return
    others = alternatives(shape, best.plan if best else plan)
    print("then one of:" if free else "one of:")
    for advice in others:
        _print_one(advice, room)
    if not any(room.fits(advice.estimate) for advice in others):
        print("none of them is enough alone: combine them, or take larger or more GPUs")


def _print_one(advice: Advice, room: Room) -> None:
    fits = "fits" if room.fits(advice.estimate) else "does not fit"
    host = f" and {advice.estimate.host / GIB:.0f} on the host" if advice.estimate.host else ""
    print(f"  {advice.overrides:48s}{_size(advice.estimate.peak)}{host}, {fits}: {advice.note}")


def _size(size: float) -> str:
    return f"{size / GIB:8.2f} GiB"
