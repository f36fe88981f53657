"""Loads a checkpoint, or what it counts tokens with, in whichever format it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig

from mmsafe.core.errors import UserError
from mmsafe.models.adapter_load import load_merged
from mmsafe.models.checkpoints import CheckpointError, format_of, format_of_config, read_json
from mmsafe.models.encoding import Encoder
from mmsafe.models.hf_load import hf_processing, load_hf, template_of
from mmsafe.models.llava import Llava, make_processor, set_trained
from mmsafe.models.locate import about_base, base_of, is_adapter, located
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.original.load import load_original, read_parts
from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line
from mmsafe.models.trial import check_processor


def load_pretrained(source: CheckpointOptions) -> Llava:
    """Load `source.path`, in either format; raises `UserError` in one line where it is missing or not a LLaVA-1.5."""
    with _folder_of(source, weights=True) as folder:
        if is_adapter(folder):
            return load_merged(source, folder, load_pretrained)
        form, weights = format_of(folder, allow_pickle=source.allow_pickle)
        if form == "original":
            model, tokenizer, image_processor = load_original(source, folder, weights)
        else:
            if source.vision_tower is not None:
                raise CheckpointError("brings its vision tower with it; model.vision_tower is for the original format")
            model, tokenizer, image_processor = load_hf(source, folder)
        template = template_of(source, folder, tokenizer, original=form == "original")
        processor = make_processor(model.config, tokenizer, image_processor, template)
        check_processor(processor, model.config)
    if source.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    set_trained(model, source.train)
    return Llava(model, processor, source)


def load_encoder(source: CheckpointOptions) -> Encoder:
    """The encoder of the checkpoint at `source.path`; raises `UserError` in one line where a part of it is missing."""
    with _folder_of(source, weights=False) as folder:
        if is_adapter(folder):
            base = base_of(folder, source.base, allow_pickle=source.allow_pickle, weights=False)
            with about_base():
                return load_encoder(replace(source, path=base, base=None))
        original = format_of_config(read_json(folder / "config.json")) == "original"
        if original:
            config, tokenizer, image_processor = read_parts(source, folder)[:3]
        else:
            config = from_pretrained(AutoConfig, folder)
            tokenizer, image_processor = hf_processing(source, folder)
        template = template_of(source, folder, tokenizer, original=original)
        processor = make_processor(config, tokenizer, image_processor, template)
        check_processor(processor, config)
    return Encoder(processor, append_eos=source.append_eos)


@contextmanager
def _folder_of(source: CheckpointOptions, *, weights: bool) -> Iterator[Path]:
    """The folder that `source.path` means, its files looked at; what fails in the block becomes one line."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a LLaVA-1.5 checkpoint, or a hub name")
    with in_one_line(f"model.path={source.path}"):
        folder = located(source.path, allow_pickle=source.allow_pickle, weights=weights)
        check_files(folder)
        yield folder
