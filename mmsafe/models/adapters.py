"""LoRA on the language model, with the projector beside it: fresh, merged, or read from files and merged.

LLaVA's own LoRA training writes PEFT's files with the original names of weights, and beside them the projector, which
was trained whole, in `non_lora_trainables.bin`. PEFT and runs keep that in the adapter's file.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmsafe.core.run_record import run_options
from mmsafe.core.settings import Peft
from mmsafe.models.checkpoints import ADAPTER_CONFIG, CheckpointError, first_few, read_json, refuse_pickles, tensors_in
from mmsafe.models.family import family_of
from mmsafe.models.locate import OTHER_BASE, base_of
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.parts import Parts
from mmsafe.models.pretrained import about_part
from mmsafe.models.quantised import dequantised, is_quantised, quantised
from mmsafe.models.vlm import VLM, set_trained

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


def add_lora(vlm: VLM, options: Peft) -> None:
    """Put fresh adapters into `vlm.model` in place; everything but them and a trained projector is frozen.

    Nothing changes for `peft=none`.

    PEFT keeps the trained projector as a copy beside the first one, so switching the adapter off gives back the model
    as it was, projector included. What is trained is fp32, whatever the type of the frozen weights.
    """
    if options.method == "none":
        return
    from peft import LoraConfig, PeftModel

    parts = family_of(vlm.model.config.model_type).parts
    connectors = parts.connectors(vlm.model) if vlm.source.train.projector else {}
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_matrices(vlm.model, parts),
        modules_to_save=list(connectors) or None,
        base_model_name_or_path=_base(vlm),
    )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        vlm.adapter = PeftModel(vlm.model, config)
    vlm.model.disable_input_require_grads()  # PEFT's way of checkpointing, in which a frozen tower keeps a graph
    for name in connectors:
        wrapper: Any = vlm.model.get_submodule(name)
        wrapper.modules_to_save["default"].float().register_forward_pre_hook(_in_own_dtype)


def _matrices(model: Any, parts: Parts) -> str:
    """Pattern of the names of the language model's matrices; a bare `q_proj` would also match modules of a tower."""
    modules = parts.language_model(model).named_modules()
    kinds = sorted({name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)})
    return rf"{re.escape(parts.language[0])}\..*\.({'|'.join(kinds)})"


def _base(vlm: VLM) -> str | None:
    """Where the adapter's base can be loaded from again; None lets PEFT ask the model."""
    path = getattr(vlm.source, "path", None)
    folder = Path(path or "").expanduser()
    return str(folder.resolve()) if path and folder.is_dir() else path


def _in_own_dtype(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast features to the connector's dtype; PEFT does so for adapters, but not for modules that it copies."""
    dtype = next(module.parameters()).dtype
    return tuple(features.to(dtype) for features in inputs)


def merge(vlm: VLM) -> None:
    """Make the adapter part of the weights, in place, and drop it; the projector that was trained stays.

    An adapter of 4-bit weights is added to what these stand for: PEFT itself would round the sum to 4 bits again.
    """
    adapter = vlm.adapter
    if adapter is None:
        return
    dtype = vlm.model.dtype
    if is_quantised(vlm.model):
        from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

        config, state = adapter.peft_config["default"], get_peft_model_state_dict(adapter)
        adapter = PeftModel(dequantised(adapter.unload()), config)
        set_peft_model_state_dict(adapter, state)
    vlm.model, vlm.adapter = adapter.merge_and_unload(), None
    for connector in family_of(vlm.model.config.model_type).parts.connectors(vlm.model).values():
        connector.to(dtype)


def load_merged(source: CheckpointOptions, folder: Path, load: Callable[[CheckpointOptions, Path], VLM]) -> VLM:
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
        vlm = load(source, base)
    if run_options(folder, "peft").get("method") == "qlora":
        vlm = quantised(vlm, vlm.model.dtype, torch.device("cpu"))
        vlm.model = dequantised(vlm.model)
    state = {_renamed(name, vlm.model): tensor for name, tensor in state.items()}
    lora = {name: tensor for name, tensor in state.items() if LORA in name}
    try:
        unknown = vlm.model.load_state_dict({n: w for n, w in state.items() if n not in lora}, strict=False)
        if unknown.unexpected_keys:
            raise CheckpointError(f"holds weights that its base does not have: {first_few(unknown.unexpected_keys)}")
        _attach(vlm, about, lora)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"does not fit its base: {' '.join(str(error).split())[:200]}") from error
    merge(vlm)
    set_trained(vlm.model, source.train)
    return vlm


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
    nested = hasattr(getattr(model.model, "vision_tower", None), "vision_model")
    return name if nested else name.replace("model.vision_tower.vision_model.", "model.vision_tower.", 1)


def _attach(vlm: VLM, about: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Adapters on the modules that the file has weights for, whatever pattern once chose them."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    modules = {name.partition(LORA)[0] for name in weights}
    if not modules or (unknown := modules - {name for name, _ in vlm.model.named_modules()}):
        adapted = first_few(unknown) if modules else "nothing"
        raise CheckpointError(f"does not fit its base: it adapts {adapted}")
    ranks = {weight.shape[0] for name, weight in weights.items() if f"{LORA}A." in name}
    if wrong := {about.get("r"), *(about.get("rank_pattern") or {}).values()} - ranks:
        raise CheckpointError(f"does not fit its base: its weights are not of rank {first_few(map(str, wrong))}")
    config = LoraConfig.from_peft_type(**about)
    config.target_modules = modules
    config.modules_to_save = config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.layer_replication = config.megatron_config = None  # would copy layers, or import a module
    vlm.adapter = PeftModel(vlm.model, config)
    incompatible: Any = set_peft_model_state_dict(vlm.adapter, {PEFT_PREFIX + name: w for name, w in weights.items()})
    if lost := [*incompatible.unexpected_keys, *(name for name in incompatible.missing_keys if LORA in name)]:
        raise CheckpointError(f"is incomplete: {len(lost)} weights do not pair up, such as {lost[0]}")
