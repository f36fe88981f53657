"""A LLaVA model with its processor, loaded from a folder in either format, or from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging as transformers_logging

from mmsafe.data.example import digest
from mmsafe.errors import UserError
from mmsafe.models.checkpoints import (
    ADAPTER,
    ADAPTER_CONFIG,
    FILES,
    PICKLES,
    CheckpointError,
    format_of,
    format_of_config,
    read_json,
)
from mmsafe.models.control_tokens import ENCODING
from mmsafe.models.hub import reachable
from mmsafe.models.original import chosen_template, shipped_template
from mmsafe.models.original_load import load_original
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
        reading = [processor_hash(self.processor), self.source.append_eos, ENCODING]
        return digest([weights_hash(self.model), config, *reading])

    def save(self, folder: Path) -> None:
        """Write a folder that plain `transformers` and vLLM load."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


HASHING = 8
"""Threads that hash weights: as many tensors are copied from a GPU at a time."""
VOLATILE = {"_name_or_path", "architectures", "dtype", "original_config", "torch_dtype", "transformers_version"}
"""Entries of a config that saving, loading and converting change; the weights' hash covers their dtype."""


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
    """Load `source.path`, in either format; raises `UserError` in one line where it is missing or not a LLaVA-1.5."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a LLaVA-1.5 checkpoint, or a hub name")
    from mmsafe.models.adapter_load import is_adapter, load_merged

    with in_one_line(source.path):
        path = located(source.path, allow_pickle=source.allow_pickle)
        if path is not None and is_adapter(path):
            return load_merged(source, path)
        form, weights = ("hf", None) if path is None else format_of(path, allow_pickle=source.allow_pickle)
        if form == "original" and path and weights:
            model, tokenizer, image_processor = load_original(source, path, weights)
        else:
            if source.vision_tower is not None:
                raise CheckpointError("brings its vision tower with it; model.vision_tower is for the original format")
            model, tokenizer, image_processor = _load_hf(source, source.path if path is None else str(path))
        template = template_of(source, path, tokenizer, original=form == "original")
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return Llava(model, make_processor(model.config, tokenizer, image_processor, template), source)


@contextmanager
def in_one_line(path: str) -> Iterator[None]:
    """What is wrong with the checkpoint that `model.path` names, as a `UserError`."""
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"model.path={path}: {error}") from error
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"model.path={path}: {_reason(path, error)}") from error


def hf_processing(source: PretrainedLlava, path: str) -> tuple[Any, Any]:
    """Tokenizer and image processor, read by `transformers`."""
    pads = source.image_aspect_ratio == "pad"
    return AutoTokenizer.from_pretrained(path), LlavaImageProcessorPil.from_pretrained(path, do_pad=pads)


def _load_hf(source: PretrainedLlava, path: str) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor, read by `transformers`."""
    tokenizer, image_processor = hf_processing(source, path)
    load: Any = LlavaForConditionalGeneration.from_pretrained
    model, loading = load(
        path,
        dtype=getattr(torch, source.dtype),
        attn_implementation=source.attention,
        use_safetensors=None if source.allow_pickle else True,
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model, tokenizer, image_processor


def located(path: str, *, allow_pickle: bool) -> Path | None:
    """The folder that `path` means, None for a hub name that `transformers` loads itself.

    A run folder stands for the model in it, or else the adapter; a checkpoint in the original format is downloaded,
    pickles only if allowed.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "model" / "config.json").exists():
            return folder / "model"
        only_adapter = (folder / ADAPTER / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()
        return folder / ADAPTER if only_adapter else folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"model.path={path}: no such folder")
    if not reachable(path):
        raise UserError(f"model.path={path}: {_not_here(path)}")
    if format_of_config(read_json(Path(hf_hub_download(path, "config.json")))) == "hf":
        return None
    return Path(snapshot_download(path, allow_patterns=[*FILES, *([PICKLES] if allow_pickle else [])]))


def format_at(source: PretrainedLlava) -> str:
    """`hf` or `original`."""
    assert source.path is not None
    path = located(source.path, allow_pickle=source.allow_pickle)
    return "hf" if path is None else format_of(path, allow_pickle=source.allow_pickle)[0]


def template_of(source: PretrainedLlava, folder: Path | None, tokenizer: Any, *, original: bool) -> str:
    """The chat template: of that name in `mmsafe/models/templates/`, a Jinja file, or the checkpoint's own."""
    if source.chat_template is not None:
        return chosen_template(source.chat_template)
    if original and folder is not None:  # LLaVA-1.5's own, unless `mmsafe.export` put another beside the weights
        path = folder / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else shipped_template("vicuna_v1")
    return _own_template(str(folder or source.path), tokenizer)


def _own_template(path: str, tokenizer: Any) -> str:
    from transformers import AutoProcessor

    template = getattr(AutoProcessor.from_pretrained(path), "chat_template", None) or tokenizer.chat_template
    if not template:
        raise CheckpointError("has no chat template; set model.chat_template to a Jinja file")
    return str(template)


def _reason(path: str, error: Exception) -> str:
    return " ".join(str(error).split())[:300] if Path(path).expanduser().is_dir() else _not_here(path)


def _not_here(name: str) -> str:
    return (
        "not on this machine, and the hub cannot be reached or has no such model; where there is a network run "
        f"`hf download {name} --local-dir DIR`, then pass model=llava_hf model.path=DIR"
    )
