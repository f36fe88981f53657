"""One case of `benchmarks.gpu`: the model made on the device, trained for some steps, and what these took."""

import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig

from benchmarks import memory
from benchmarks.gpu_cases import TOY, Case
from benchmarks.ours import Watch, empty_cache
from benchmarks.same_ids import check_same_inputs
from benchmarks.sides import OBJECTIVES, Clock, Lap, Plan, Step
from mmsafe.core.config import typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.core.precision import resolved
from mmsafe.data.example import Example
from mmsafe.experiment import train_job
from mmsafe.experiment.rounds import Round
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.models import load
from mmsafe.models.compiling import compiled
from mmsafe.models.loading import own_device, to_train
from mmsafe.models.pretrained import from_pretrained
from mmsafe.models.vlm import VLM
from mmsafe.runs.hydra_state import composing
from mmsafe.runs.overrides import composed
from mmsafe.runs.preflight import check
from mmsafe.training.fit import check_accelerator, fit
from mmsafe.training.preference_data import PreferenceData

LAYERS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"  # as `peft=lora`


def config_of(case: Case, inputs: Path) -> TrainConfig:
    """What `mmsafe.train` makes of the case; raises `UserError` where this version or machine lacks what it needs."""
    if case.is_trl and find_spec("trl") is None:
        raise UserError("TRL is not installed; `pip install trl==1.16.0`")
    check("train", TrainConfig, words := case.words(inputs))
    with composing("train", None):
        config = typed(without_hydra(composed("train", words)), TrainConfig)
    check_accelerator(config.trainer, config.model.attention)  # type: ignore[attr-defined]
    return config


def measure(case: Case, inputs: Path, config: TrainConfig) -> dict[str, Any]:
    """The result of a case."""
    device = own_device(config.trainer.accelerator)
    peak = matmul_peak(device, 512 if case.scale is TOY else 8192)
    plan = case.plan(inputs)
    llava, examples = random_model(config, device), plan.examples()
    shape = shape_of(llava, examples, case)
    steps, reference = theirs(case, plan, config, llava, examples) if case.is_trl else ours(config, llava, examples)
    return {
        "words": case.words(inputs),
        "trl": case.trl_options if case.is_trl else {},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl") if find_spec(name)},
        "matmul_peak": peak,
        **shape,
        "loss": [step.loss for step in steps],
        "grad_norm": [step.grad_norm for step in steps],
        "seconds": [step.wall for step in steps],
        "reference_seconds": reference.wall,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else memory.peak() / 1024,
    }


def random_model(config: TrainConfig, device: torch.device) -> VLM:
    """The model as training starts from it, with random weights in place of a checkpoint's, the same in each case."""

    def on_device(kind: Any, folder: Path, *, allow_pickle: bool, **options: Any) -> Any:
        torch.manual_seed(0)
        with device:
            return kind.from_config(from_pretrained(AutoConfig, folder), **options)

    with patch.multiple(load, format_of=lambda folder, **_: ("hf", None), load_model=on_device):
        return to_train(config.model.load(), config.peft, resolved(config.trainer), config.trainer.accelerator)


def ours(config: TrainConfig, llava: VLM, examples: Sequence[Example]) -> tuple[list[Step], Lap]:
    """Steps and reference pass of `mmsafe.train`, by the job's own functions, so that no option is lost."""
    this = Round(config, config.seed)
    recipe, watch = train_job._recipe(this), Watch(lambda: None)
    with empty_cache():
        loss, clock = train_job._loss(this, llava, None, recipe.parallel), Clock()
        data = PreferenceData(llava, examples, loss, recipe)
        reference = clock.lap()
        with compiled(llava.model) if config.model.compile else nullcontext():
            fit(llava.model, data, loss, recipe, callbacks=[watch])
    return watch.steps, reference


def theirs(
    case: Case, plan: Plan, config: TrainConfig, llava: VLM, examples: Sequence[Example]
) -> tuple[list[Step], Lap]:
    """Steps of TRL's trainer, once its inputs are known to be ours; its reference is a part of each step."""
    from peft import LoraConfig

    from benchmarks.trl_side import TrlSide

    peft = config.peft
    lora = LoraConfig(r=peft.rank, lora_alpha=peft.alpha, target_modules=LAYERS) if peft.method == "lora" else None
    trl = TrlSide(plan, examples, llava, lora, **case.trl_options)
    check_same_inputs(trl.collated(), llava, examples, plan)
    trl.start()
    for _ in range(plan.steps):
        trl.step()
    return trl.steps, Lap(0, 0)


def shape_of(llava: VLM, examples: Sequence[Example], case: Case) -> dict[str, float]:
    """Mean tokens, and useful FLOP of a question: 2 per weight and token forward, and as many for each gradient.

    Each token counts once, in the head response tokens only; attention scores, norms, adapters, the tower, the
    reference and what is computed twice do not count: a lower bound.
    """
    encoder, names, model = llava.encoder(), OBJECTIVES[case.objective].responses, llava.model
    prompt = statistics.mean(len(encoder.prompt_ids(example)) for example in examples)
    response = statistics.mean(len(encoder.response_ids(row.responses[name])) for row in examples for name in names)
    targets = len(names) * response
    body = sum(p.numel() for n, p in model.model.language_model.named_parameters() if "embed" not in n)
    flops = (4 if case.train == "lora" else 6) * (body * (prompt + targets) + model.lm_head.weight.numel() * targets)
    return {"prompt_tokens": prompt, "response_tokens": response, "unique_tokens": prompt + targets, "flops": flops}


def matmul_peak(device: torch.device, size: int) -> float:
    """Best of thirty rates of a square product, in FLOP per second."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    clock, seconds = Clock(), []
    for _ in range(30):
        _ = a @ b
        seconds.append(clock.lap().wall)
    return 2 * size**3 / min(seconds)
