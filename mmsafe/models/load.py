"""Loads a checkpoint, or what it counts tokens with, in whichever format it is."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from mmsafe.core.errors import UserError
from mmsafe.models.adapters import load_merged
from mmsafe.models.checkpoints import CheckpointError, read_json
from mmsafe.models.encoding import Encoder
from mmsafe.models.families.llava import make_processor
from mmsafe.models.family import family_of
from mmsafe.models.formats import Format, format_of, format_of_config
from mmsafe.models.locate import OTHER_BASE, base_of, is_adapter, located
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.original.read import load_original, read_parts
from mmsafe.models.pretrained import TEMPLATE, about_part, check_files, from_pretrained, in_one_line, load_model
from mmsafe.models.processors import own_template
from mmsafe.models.rendering import rendered
from mmsafe.models.vlm import VLM, chosen_template, set_trained


def load_pretrained(source: CheckpointOptions) -> VLM:
    """Load `source.path`; raises `UserError` in one line where it is missing, damaged or of no family that is known."""
    with _folder_of(source, weights=True) as folder:
        return load_merged(source, folder, _whole_model) if is_adapter(folder) else _whole_model(source, folder)


def load_encoder(source: CheckpointOptions) -> Encoder:
    """The encoder of the checkpoint at `source.path`; raises `UserError` in one line where a part of it is missing."""
    with _folder_of(source, weights=False) as folder:
        base = folder
        if is_adapter(folder):
            base = base_of(folder, source.base, allow_pickle=source.allow_pickle, weights=False)
        with about_part(f"its base {base}", OTHER_BASE) if base != folder else nullcontext():
            check_files(base)
            _, processor = _processing(source, base, format_of_config(read_json(base / "config.json")))
    return Encoder(processor, append_eos=source.append_eos)


@contextmanager
def _folder_of(source: CheckpointOptions, *, weights: bool) -> Iterator[Path]:
    """The folder that `source.path` means; what fails in the block becomes one line."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a checkpoint, or a hub name")
    with in_one_line(f"model.path={source.path}"):
        folder = located(source.path, allow_pickle=source.allow_pickle, weights=weights)
        check_files(folder)
        yield folder


def _whole_model(source: CheckpointOptions, folder: Path) -> VLM:
    """The model in `folder`, which is no adapter."""
    check_files(folder)
    form, weights = format_of(folder, allow_pickle=source.allow_pickle)
    config, processor = _processing(source, folder, form)
    options: dict[str, Any] = {"dtype": getattr(torch, source.dtype), "attn_implementation": source.attention}
    if form == "original":
        model = load_original(source, folder, weights, config, **options)
    else:
        model = load_model(AutoModelForImageTextToText, folder, allow_pickle=source.allow_pickle, **options)
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return VLM(model, processor, source)


def _processing(source: CheckpointOptions, folder: Path, form: Format) -> tuple[Any, Any]:
    """The config in `folder`, and the processor, which fits it."""
    if form == "original":
        config, tokenizer, images = read_parts(source, folder)
        processor = make_processor(config, tokenizer, images)
    elif source.vision_tower is not None:
        raise CheckpointError("brings its vision tower with it; model.vision_tower is for the original format")
    else:
        config, tokenizer = from_pretrained(AutoConfig, folder), from_pretrained(AutoTokenizer, folder)
        processor = family_of(config.model_type).processor(folder, config, tokenizer)
        family_of(config.model_type).square(processor.image_processor, source.image_aspect_ratio)
    processor.chat_template = _template(source, folder, tokenizer, form)
    _check_processor(processor, config)
    return config, processor


def _template(source: CheckpointOptions, folder: Path, tokenizer: Any, form: Format) -> str:
    """The chosen chat template, or the checkpoint's own."""
    if source.chat_template is not None:
        return chosen_template(source.chat_template)
    if form == "original" and not (folder / TEMPLATE).is_file():  # `mmsafe.export` may have put another there
        return chosen_template("vicuna_v1")
    return own_template(folder, tokenizer)


def _check_processor(processor: Any, config: Any) -> None:
    """Raise `CheckpointError` where tokens, images or the chat template do not fit the model of `config`."""
    family, tokenizer = family_of(config.model_type), processor.tokenizer
    if len(tokenizer) > (vocabulary := config.get_text_config().vocab_size):
        raise CheckpointError(f"its tokenizer has {len(tokenizer)} tokens, config.json says {vocabulary}")
    if (token := family.image_token(processor)) != family.placeholder(config):
        name = tokenizer.convert_ids_to_tokens(token)
        raise CheckpointError(
            f"'{name}' is token {token} of its tokenizer, config.json says {family.placeholder(config)}"
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError("its tokenizer has no token that ends a response")
    if (count := Encoder(processor).image_tokens) < 1:
        raise CheckpointError(f"its tower makes {count} tokens of an image")
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        text = rendered(processor, [{"role": "user", "content": content}], add_generation_prompt=True)
    except UserError as error:
        raise CheckpointError(f"{error}; or set model.chat_template") from error
    if processor.image_token not in text:
        raise CheckpointError("its chat template shows no image; set model.chat_template")
