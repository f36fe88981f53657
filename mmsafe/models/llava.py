"""A LLaVA model with its processor, loaded from a folder in either format, or from the hub."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging as transformers_logging

from mmsafe.core.errors import UserError
from mmsafe.data.example import digest
from mmsafe.models.checkpoints import ADAPTER, ADAPTER_CONFIG, CheckpointError, format_of, wanted_files
from mmsafe.models.control_tokens import ENCODING
from mmsafe.models.hub import reachable
from mmsafe.models.model_source import ModelSource, PretrainedLlava, Trained
from mmsafe.models.original.layout import chosen_template, shipped_template
from mmsafe.models.original.load import load_original
from mmsafe.models.pretrained import TEMPLATE, check_files, from_pretrained, in_one_line, load_model
from mmsafe.models.trial import check_processor

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

    with in_one_line(f"model.path={source.path}"):
        folder = located(source.path, allow_pickle=source.allow_pickle)
        check_files(folder)
        if is_adapter(folder):
            return load_merged(source, folder)
        form, weights = format_of(folder, allow_pickle=source.allow_pickle)
        if form == "original":
            model, tokenizer, image_processor = load_original(source, folder, weights)
        else:
            if source.vision_tower is not None:
                raise CheckpointError("brings its vision tower with it; model.vision_tower is for the original format")
            model, tokenizer, image_processor = _load_hf(source, folder)
        template = template_of(source, folder, tokenizer, original=form == "original")
        processor = make_processor(model.config, tokenizer, image_processor, template)
        check_processor(processor, model.config)
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return Llava(model, processor, source)


def hf_processing(source: PretrainedLlava, folder: Path) -> tuple[Any, Any]:
    """Tokenizer and image processor, read by `transformers`."""
    pads = source.image_aspect_ratio == "pad"
    return from_pretrained(AutoTokenizer, folder), from_pretrained(LlavaImageProcessorPil, folder, do_pad=pads)


def _load_hf(source: PretrainedLlava, folder: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor, read by `transformers`."""
    model = load_model(
        LlavaForConditionalGeneration,
        folder,
        allow_pickle=source.allow_pickle,
        dtype=getattr(torch, source.dtype),
        attn_implementation=source.attention,
    )
    return model, *hf_processing(source, folder)


def located(path: str, *, allow_pickle: bool, weights: bool = True) -> Path:
    """The folder that `path` means; a model of the hub is downloaded, its pickles only if allowed.

    A run folder stands for the model in it, or else the adapter.
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
    try:
        wanted = wanted_files(weights=weights, pickles=weights and allow_pickle)
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be downloaded: {' '.join(str(error).split())[:200]}") from error


def format_at(source: PretrainedLlava) -> str:
    """`hf` or `original`."""
    assert source.path is not None
    with in_one_line(f"model.path={source.path}"):
        return format_of(located(source.path, allow_pickle=source.allow_pickle), allow_pickle=source.allow_pickle)[0]


def template_of(source: PretrainedLlava, folder: Path, tokenizer: Any, *, original: bool) -> str:
    """The chat template: of that name in `mmsafe/models/templates/`, a Jinja file, or the checkpoint's own."""
    if source.chat_template is not None:
        return chosen_template(source.chat_template)
    if original:  # LLaVA-1.5's own, unless `mmsafe.export` put another beside the weights
        path = folder / TEMPLATE
        return path.read_text(encoding="utf-8") if path.is_file() else shipped_template("vicuna_v1")
    template = getattr(from_pretrained(AutoProcessor, folder), "chat_template", None) or tokenizer.chat_template
    if not isinstance(template, str) or not template:
        raise CheckpointError("has no chat template; set model.chat_template to a Jinja file")
    return template


def _not_here(name: str) -> str:
    return (
        "not on this machine, and the hub cannot be reached or has no such model; where there is a network run "
        f"`hf download {name} --local-dir DIR`, then pass model=llava_hf model.path=DIR"
    )
