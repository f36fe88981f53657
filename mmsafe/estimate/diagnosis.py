"""What `mmsafe.doctor` finds out and prints."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmsafe.core.cache import cache_dir
from mmsafe.estimate.advice import Advice, alternatives, free_of_charge
from mmsafe.estimate.machine import GIB, DoctorConfig, Memory, disk, gpus, host, versions
from mmsafe.estimate.memory import MemoryEstimate, estimate, state, trained
from mmsafe.estimate.plan import MemoryPlan, Shape
from mmsafe.estimate.shape import shape_of
from mmsafe.models.model_source import Pretrained
from mmsafe.reference.reference import AdapterOff, Frozen
from mmsafe.runs.run_context import RunContext
from mmsafe.scoring.ways import Padded

RESERVE = 1.0
"""GiB of a GPU that no estimate knows of: CUDA's context, workspaces of cuBLAS and NCCL, fragments."""
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
    on_gpu: bool = True

    def verdict(self, needed: MemoryEstimate) -> str:
        """Whether a step fits."""
        if self.device is None:
            return "unknown"
        if needed.peak > self.device or (self.host is not None and needed.host > self.host):
            return "does not fit"
        return "fits, but barely" if needed.peak > TIGHT * self.device else "fits"

    def fits(self, needed: MemoryEstimate) -> bool:
        """Whether a step fits, as far as is known."""
        return self.verdict(needed) != "does not fit"


def diagnose(config: DoctorConfig, run: RunContext) -> bool:
    """Print versions, machine, estimate and advice; False if the run does not fit."""
    here, memory = gpus(), host()
    print(" · ".join(f"{name} {version}" for name, version in versions().items()))
    print("\n".join(map(str, here)) or "no GPU")
    print(memory)
    for name, folder in {"cache": cache_dir(""), "run folders": run.folder}.items():
        print(f"{name}: {disk(folder) / GIB:.1f} GiB free in {folder}")
    room = room_for(config, here, memory)
    shape = shape_of(config.model)
    if shape is None:
        print(f"\nmodel.path={getattr(config.model, 'path', None)}: not on this machine, so its size is not known")
        return True
    plan = plan_for(config, shape, room)
    needed = estimate(shape, plan)
    _print_estimate(shape, plan, room, run.choices)
    if not room.fits(needed):
        _print_advice(config, shape, plan, room)
    if not here and config.doctor.gpu_memory_gib is None:
        print("no GPU here; `doctor.gpu_memory_gib=80 doctor.devices=8` asks whether it would fit on such a machine")
    return room.fits(needed)


def room_for(config: DoctorConfig, here: list[Memory], memory: Memory) -> Room:
    """The memory that a run would have: that which was asked about, this machine's GPUs, or the host's."""
    size, host_size = config.doctor.gpu_memory_gib, config.doctor.host_memory_gib
    on_host = host_size * GIB if host_size else None
    if size is not None:
        return Room(f"a GPU of {size:g} GiB, less {RESERVE:g} for CUDA", (size - RESERVE) * GIB, on_host)
    if here and config.trainer.accelerator != "cpu":
        free = min(gpu.free for gpu in here) - RESERVE * GIB
        return Room(f"the free part of a GPU here, less {RESERVE:g} for CUDA", free, on_host or memory.free)
    if _devices(config) > 1 or config.strategy.name not in ("auto", "ddp"):
        return Room("not known: set doctor.gpu_memory_gib", None, on_host)
    return Room("the host's free memory: it would run on the CPU", on_host or memory.free, None, on_gpu=False)


def plan_for(config: DoctorConfig, shape: Shape, room: Room) -> MemoryPlan:
    """The config as the estimator reads it, with the longest prompt and response given or assumed."""
    model, doctor, limit, precision = config.model, config.doctor, config.lengths.max_length, config.trainer.precision
    if precision == "auto":
        precision = "bf16-mixed" if room.on_gpu else "32-true"
    response = doctor.response_tokens or config.generation.max_new_tokens
    prompt = doctor.prompt_tokens or shape.image_tokens + TEXT
    if limit is not None:
        prompt = min(prompt, max(1, limit - min(response, limit // 2)))
        response = max(1, min(response, limit - prompt))
    views = tuple(Counter(row.image for row in config.objective.groups[0].values()).values())
    question = len(views) * prompt + sum(views) * response
    references = {Frozen: "frozen", AdapterOff: "adapter_off"} if config.objective.needs_reference else {}
    return MemoryPlan(
        batch_size=max(1, config.data.max_tokens // question) if config.data.max_tokens else config.data.batch_size,
        responses=views,
        prompt=prompt,
        response=response,
        scoring="padded" if isinstance(config.scoring, Padded) else "shared_prefix",
        attention=getattr(model, "attention", "sdpa"),
        dtype=getattr(model, "dtype", "float32"),
        precision=precision,
        gradient_checkpointing=getattr(model, "gradient_checkpointing", False),
        accumulate=config.accumulate,
        reference=references.get(type(config.reference), "cached"),
        train_language=model.train.language,
        train_projector=model.train.projector,
        train_vision=model.train.vision,
        strategy=config.strategy.name,
        optimizer=config.optimizer,
        devices=_devices(config),
        devices_per_node=doctor.devices_per_node or (None if doctor.devices else config.trainer.devices),
        peft=config.peft.method,
        lora_rank=0 if config.peft.method == "none" else config.peft.rank,
        on_gpu=room.on_gpu,
    )


def _devices(config: DoctorConfig) -> int:
    return config.doctor.devices or config.trainer.processes


def _print_estimate(shape: Shape, plan: MemoryPlan, room: Room, choices: Mapping[str, str]) -> None:
    needed = estimate(shape, plan)
    on = f"{plan.devices} {'GPU' if room.on_gpu else 'CPU process'}{'s' if plan.devices > 1 else ''}"
    how = f"{plan.precision}, strategy {plan.strategy}, {plan.scoring}"
    print(f"\nmodel={choices['model']} objective={choices['objective']} on {on}: {how}")
    responses = f"{sum(plan.responses)} responses of {plan.response}"
    longest = f"{plan.batch_size} × (prompt of {plan.prompt} + {responses} tokens)"
    print(f"longest batch: {longest}, as {plan.lines} × {plan.time} tokens")
    print("doctor.prompt_tokens and doctor.response_tokens change it")
    print(f"memory per device is highest at the {needed.moment}:")
    for name, size in needed.moments[needed.moment].items():
        if size:
            print(f"  {name:14s}{_size(size)}")
    print(f"  {'total':14s}{_size(needed.peak)}")
    others = [f"{name} {needed.at(name) / GIB:.2f}" for name in needed.moments if name != needed.moment]
    print(f"  at other moments: {', '.join(others)}")
    adapters = {"none": "", "qlora": f", and LoRA of rank {plan.lora_rank} on projections in 4 bits"}
    adapted = adapters.get(plan.peft, f", and LoRA of rank {plan.lora_rank}")
    inputs = f"{_count(shape.total)} parameters × {plan.stored} bytes{adapted}"
    moments = f"{state(shape, plan):.3g} more each by optimizer={plan.optimizer.name}"
    print(f"  {inputs}; {_count(trained(shape, plan))} trained × {plan.trained} bytes, {moments}")
    if needed.host:
        print(f"  {'on each host':14s}{_size(needed.host)}   offloaded states with their buffers")
    at_hand = "" if room.device is None else f"{room.device / GIB:.2f} GiB, "
    print(f"at hand: {at_hand}{room.name}\nverdict: {room.verdict(needed)}")


def _print_advice(config: DoctorConfig, shape: Shape, plan: MemoryPlan, room: Room) -> None:
    free = free_of_charge(shape, plan, checkpoints=isinstance(config.model, Pretrained))
    if free:
        print("same result in less memory, each with those above it:")
        _print_each(free, room)
        if room.fits(free[-1].estimate):
            return
    global_batch = config.optimizer.global_batch_size is not None
    others = alternatives(shape, free[-1].plan if free else plan, global_batch=global_batch)
    print("then one of:" if free else "one of:")
    _print_each(others, room)
    if not any(room.fits(advice.estimate) for advice in others):
        print("none of them is enough alone: combine them, or take larger or more GPUs")


def _print_each(advised: Iterable[Advice], room: Room) -> None:
    for advice in advised:
        needed = advice.estimate
        on_host = f" and {needed.host / GIB:.0f} on the host" if needed.host else ""
        print(f"  {advice.overrides:48s}{_size(needed.peak)}{on_host}, {room.verdict(needed)}: {advice.note}")


def _size(size: float) -> str:
    return f"{size / GIB:8.2f} GiB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"
