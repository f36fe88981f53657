"""Loads what a checkpoint counts tokens with: tokenizer, image processor and chat template, but no weights."""

from __future__ import annotations

from dataclasses import replace

from transformers import AutoConfig

from mmsafe.core.errors import UserError
from mmsafe.models.adapter_load import about_base, base_of, is_adapter
from mmsafe.models.checkpoints import format_of_config, read_json
from mmsafe.models.encoding import Encoder
from mmsafe.models.llava import hf_processing, located, make_processor, template_of
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.original.load import read_parts
from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line
from mmsafe.models.trial import check_processor


def load_encoder(source: PretrainedLlava) -> Encoder:
    """The encoder of the checkpoint at `source.path`; raises `UserError` in one line where a part of it is missing."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a LLaVA-1.5 checkpoint, or a hub name")
    with in_one_line(f"model.path={source.path}"):
        folder = located(source.path, allow_pickle=source.allow_pickle, weights=False)
        check_files(folder)
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
