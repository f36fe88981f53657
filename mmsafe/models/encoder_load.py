"""Loads what a checkpoint counts tokens with: tokenizer, image processor and chat template, but no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mmsafe.errors import UserError
from mmsafe.models.adapter_load import about_base, base_of, is_adapter
from mmsafe.models.checkpoints import format_of_config, read_json
from mmsafe.models.encoding import Encoder
from mmsafe.models.llava import hf_processing, in_one_line, located, make_processor, template_of
from mmsafe.models.original_load import read_parts
from mmsafe.models.source import PretrainedLlava


def load_encoder(source: PretrainedLlava) -> Encoder:
    """The encoder of the checkpoint at `source.path`; raises `UserError` in one line where a part of it is missing."""
    if source.path is None:
        raise UserError("model.path is not set: name a folder with a LLaVA-1.5 checkpoint, or a hub name")
    with in_one_line(source.path):
        folder = located(source.path, allow_pickle=source.allow_pickle)
        if folder is not None and is_adapter(folder):
            base = base_of(folder, source.base, allow_pickle=source.allow_pickle)
            with about_base():
                return load_encoder(replace(source, path=base, base=None))
        original = folder is not None and format_of_config(read_json(folder / "config.json")) == "original"
        config, tokenizer, image_processor = _parts(source, folder, original=original)
        template = template_of(source, folder, tokenizer, original=original)
    return Encoder(make_processor(config, tokenizer, image_processor, template), append_eos=source.append_eos)


def _parts(source: PretrainedLlava, folder: Path | None, *, original: bool) -> tuple[Any, Any, Any]:
    """Config, tokenizer and image processor."""
    if original and folder is not None:
        return read_parts(source, folder)[:3]
    path = str(folder or source.path)
    return AutoConfig.from_pretrained(path), *hf_processing(source, path)
