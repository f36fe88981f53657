"""A LLaVA model with its processor, loaded from a Hugging Face folder or the hub."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging as transformers_logging

from mmsafe.data.example import digest
from mmsafe.errors import UserError
from mmsafe.models.source import ModelSource, PretrainedLlava, Trained

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder

transformers_logging.disable_progress_bar()  # of a model's shards: noise beside the run's own bars


@dataclass
class Llava:
    """Model, processor and the options that decide how they are used."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    source: ModelSource
    adapter: Any = None
    """The `PeftModel` around `model`, where adapters are trained."""

    def encoder(self) -> Encoder:
        """What turns examples into token ids and pixels for this model."""
        from mmsafe.models.encoding import Encoder

        return Encoder(self.processor, append_eos=self.source.append_eos)

    def fingerprint(self) -> str:
        """Hash of everything a generation depends on: weights, config, processor, template, end-of-response rule."""
        config = _lasting(self.model.config.to_dict())
        return digest([weights_hash(self.model), config, processor_hash(self.processor), self.source.append_eos])

    def save(self, folder: Path) -> None:
        """Write a folder that plain `transformers` and vLLM load."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


HASHING = 8
"""Threads that hash weights: as many tensors are copied from a GPU at a time."""
VOLATILE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config that saving and loading change; the weights' hash covers their dtype."""


def _lasting(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _lasting(value) for name, value in config.items() if name not in VOLATILE}


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of all parameters and buffers, by name; hashing leaves Python's lock alone, so threads help."""

    def one(entry: tuple[str, torch.Tensor]) -> list[str]:
        name, tensor = entry
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        return [name, str(tensor.dtype), str(tuple(tensor.shape)), hashlib.sha256(data.numpy().data).hexdigest()]

    with ThreadPoolExecutor(HASHING) as pool:
        return digest(list(pool.map(one, sorted(model.state_dict().items()))))


def processor_hash(processor: LlavaProcessor) -> str:
    """Hash of tokenizer, chat template and image preprocessing."""
    tokenizer = processor.tokenizer
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    del vocabulary["padding"], vocabulary["truncation"]  # the state of the last call
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    images = [processor.image_processor.to_dict(), processor.patch_size, processor.vision_feature_select_strategy]
    return digest([vocabulary, special, processor.chat_template, images])


def make_processor(
    config: Any, tokenizer: Any, image_processor: LlavaImageProcessorPil, chat_template: str | None
) -> LlavaProcessor:
    """A processor whose image-token count agrees with `config` (older checkpoints leave it one off)."""
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def set_trained(model: LlavaForConditionalGeneration, trained: Trained) -> None:
    """Let gradients reach the chosen parts only."""
    inner = model.model
    parts = {
        inner.vision_tower: trained.vision,
        inner.multi_modal_projector: trained.projector,
        inner.language_model: trained.language,
        model.lm_head: trained.language,
    }
    for module, wanted in parts.items():
        module.requires_grad_(wanted)


def load_pretrained(source: PretrainedLlava) -> Llava:
    """Load `source.path`; raises `UserError` in one line where it is missing or not a LLaVA."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a LLaVA checkpoint in Hugging Face format")
    path = _located(source.path)
    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type != "llava":
            raise UserError(f"model.path={source.path}: holds a '{config.model_type}' model, not a 'llava' one")
        tokenizer = AutoTokenizer.from_pretrained(path)
        pad = source.image_aspect_ratio == "pad"
        image_processor = LlavaImageProcessorPil.from_pretrained(path, do_pad=pad)
        load: Any = LlavaForConditionalGeneration.from_pretrained
        model, loading = load(
            path, dtype=getattr(torch, source.dtype), attn_implementation=source.attention, output_loading_info=True
        )
        template = source.chat_template.read_text() if source.chat_template else _own_template(path, tokenizer)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model.path={source.path}: {_reason(source.path, error)}") from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise UserError(f"model.path={source.path}: {len(missing)} weights are missing, such as {missing[0]}")
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return Llava(model, make_processor(config, tokenizer, image_processor, template), source)


def _located(path: str) -> str:
    """A run folder stands for the model in it."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        inside = folder / "model"
        return str(inside if (inside / "config.json").exists() else folder)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"model.path={path}: no such folder")
    _reachable(path)
    return path


def _reachable(name: str) -> None:
    """One quick question to the hub: the loaders would ask for half a minute before they give up."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client that the hub library uses

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise UserError(f"model.path={name}: {_reason(name, error)}") from error


def _own_template(path: str, tokenizer: Any) -> str:
    from transformers import AutoProcessor

    template = getattr(AutoProcessor.from_pretrained(path), "chat_template", None) or tokenizer.chat_template
    if not template:
        raise UserError(f"model.path={path}: has no chat template; set model.chat_template to a Jinja file")
    return str(template)


def _reason(path: str, error: Exception) -> str:
    if Path(path).expanduser().is_dir():
        return " ".join(str(error).split())[:300]
    return (
        "not on this machine, and the hub cannot be reached or has no such model; where there is a network run "
        f"`hf download {path} --local-dir DIR`, then pass model=llava_hf model.path=DIR"
    )
