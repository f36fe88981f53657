"""Loads a LoRA adapter merged into its base: of a run, of PEFT, or of LLaVA's own LoRA training.

LLaVA's layout has PEFT's files, with the original names of weights, and beside them `non_lora_trainables.bin`: what was
trained whole, which is the projector. PEFT and runs keep such weights in the adapter's file itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsafe.core.run_record import run_options
from mmsafe.models.adapters import merge
from mmsafe.models.checkpoints import (
    ADAPTER_CONFIG,
    CheckpointError,
    first_few,
    read_json,
    refuse_pickles,
    tensors_in,
)
from mmsafe.models.llava import Llava, set_trained
from mmsafe.models.locate import OTHER_BASE, base_of
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.pretrained import about_part
from mmsafe.models.quantised import dequantised, quantised

FILES = ("adapter_model.safetensors", "adapter_model.bin")
TRAINED_WHOLE = "non_lora_trainables.bin"
PEFT_PREFIX, LORA = "base_model.model.", ".lora_"
NAMES = {
    r"model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"model\.vision_tower\.vision_tower\.": "model.vision_tower.",
    r"model\.(?=(layers|embed_tokens|norm)\.)": "model.language_model.",
    r"language_model\.model\.": "model.language_model.",
    r"language_model\.lm_head\.": "lm_head.",
    r"(?=(multi_modal_projector|vision_tower)\.)": "model.",
}
"""Beginnings of names in the original format, and in `transformers` before 4.52, and what they are now."""


def load_merged(source: CheckpointOptions, folder: Path, load: Callable[[CheckpointOptions, Path], Llava]) -> Llava:
    """The base of the adapter in `folder`, which `load` reads, with the adapter and all that was trained beside it.

    An adapter that a run trained on 4-bit weights is merged into what those stand for. Raises `CheckpointError` for
    what is no LoRA, or does not fit its base.
    """
    about = read_json(folder / ADAPTER_CONFIG)
    if about.get("peft_type") != "LORA":
        raise CheckpointError(f"holds an adapter of type {about.get('peft_type')}; only LORA can be merged")
    state = _state(folder, allow_pickle=source.allow_pickle)
    base = base_of(folder, source.base, allow_pickle=source.allow_pickle)
    with about_part(f"its base {base}", OTHER_BASE):
        llava = load(source, base)
    if run_options(folder, "peft").get("method") == "qlora":
        llava = quantised(llava, llava.model.dtype, torch.device("cpu"))
        llava.model = dequantised(llava.model)
    state = {_renamed(name, llava.model): tensor for name, tensor in state.items()}
    lora = {name: tensor for name, tensor in state.items() if LORA in name}
    try:
        unknown = llava.model.load_state_dict({n: w for n, w in state.items() if n not in lora}, strict=False)
        if unknown.unexpected_keys:
            raise CheckpointError(f"holds weights that its base does not have: {first_few(unknown.unexpected_keys)}")
        _attach(llava, about, lora)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"does not fit its base: {' '.join(str(error).split())[:200]}") from error
    merge(llava)
    set_trained(llava.model, source.train)
    return llava


def _state(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """All weights that were trained, by their names in the files."""
    adapter = [name for name in FILES if (folder / name).is_file()][:1]
    if not adapter:
        raise CheckpointError(f"holds no weights ({FILES[0]})")
    files = [*adapter, *([TRAINED_WHOLE] if (folder / TRAINED_WHOLE).is_file() else [])]
    refuse_pickles(files, allowed=allow_pickle)
    return {name: tensor for file in files for name, tensor in tensors_in(folder / file)}


def _renamed(name: str, model: Any) -> str:
    """The name of a module or weight as `model` has it."""
    name = name.removeprefix(PEFT_PREFIX)
    for beginning, now in NAMES.items():
        if match := re.match(beginning, name):
            name = now + name[match.end() :]
            break
    nested = hasattr(model.model.vision_tower, "vision_model")
    return name if nested else name.replace("model.vision_tower.vision_model.", "model.vision_tower.", 1)


def _attach(llava: Llava, about: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Adapters on the modules that the file has weights for, whatever pattern once chose them."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    modules = {name.partition(LORA)[0] for name in weights}
    if not modules or (unknown := modules - {name for name, _ in llava.model.named_modules()}):
        adapted = first_few(unknown) if modules else "nothing"
        raise CheckpointError(f"does not fit its base: it adapts {adapted}")
    ranks = {weight.shape[0] for name, weight in weights.items() if f"{LORA}A." in name}
    if wrong := {about.get("r"), *(about.get("rank_pattern") or {}).values()} - ranks:
        raise CheckpointError(f"does not fit its base: its weights are not of rank {first_few(map(str, wrong))}")
    config = LoraConfig.from_peft_type(**about)
    config.target_modules = modules
    config.modules_to_save = config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.layer_replication = config.megatron_config = None  # would copy layers, or import a module
    llava.adapter = PeftModel(llava.model, config)
    incompatible: Any = set_peft_model_state_dict(llava.adapter, {PEFT_PREFIX + name: w for name, w in weights.items()})
    if lost := [*incompatible.unexpected_keys, *(name for name in incompatible.missing_keys if LORA in name)]:
        raise CheckpointError(f"is incomplete: {len(lost)} weights do not pair up, such as {lost[0]}")
