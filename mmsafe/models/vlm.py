"""A model that sees and talks, with its processor."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mmsafe.data.example import digest
from mmsafe.models.encoding import ENCODING, Encoder
from mmsafe.models.family import family_of
from mmsafe.models.model_options import ModelOptions, Trained

transformers_logging.disable_progress_bar()  # of a model's shards: noise beside the run's own bars


@dataclass
class VLM:
    """Model, processor and the options that decide how they are used."""

    model: Any
    processor: Any
    source: ModelOptions
    adapter: Any = None
    """The `PeftModel` around `model`, where adapters are trained."""

    def encoder(self) -> Encoder:
        """What turns examples into token ids and pixels for this model."""
        return Encoder(self.processor, append_eos=self.source.append_eos)

    def fingerprint(self) -> str:
        """Hash of everything a generation depends on: weights, config, processor, template, end-of-response rule."""
        config = _lasting(self.model.config.to_dict())
        reading = [processor_hash(self.processor), self.source.append_eos, ENCODING]
        encoder = self.encoder()
        if encoder.between != " ":  # a response followed every prompt behind a space before
            reading.append(encoder.between)
        if (ends := self.ends()) != [encoder.tokenizer.eos_token_id]:  # and ended with EOS
            reading.append(ends)
        return digest([weights_hash(self.model), config, *reading])

    def ends(self) -> list[int]:
        """Ids at which an answer ends: what the template writes behind one, EOS, and what the checkpoint names."""
        encoder, named = self.encoder(), self.model.generation_config.eos_token_id
        named = named if isinstance(named, list) else [named]
        ends = dict.fromkeys([encoder.end_id, encoder.tokenizer.eos_token_id, *named])
        return [end for end in ends if end is not None]

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


def processor_hash(processor: Any) -> str:
    """Hash of tokenizer, chat template and image preprocessing."""
    tokenizer = processor.tokenizer
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    del vocabulary["padding"], vocabulary["truncation"]  # the state of the last call
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    images = [processor.image_processor.to_dict(), *family_of(type(processor).__name__).image_options(processor)]
    return digest([vocabulary, special, processor.chat_template, images])


def set_trained(model: Any, trained: Trained) -> None:
    """Let gradients reach the chosen parts only."""
    parts = family_of(model.config.model_type).parts
    wanted = {"vision": trained.vision, "connector": trained.projector, "language": trained.language}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted[parts.of(name)])


def chosen_template(chosen: str | Path) -> str:
    """The chat template that `model.chat_template` names: one of `mmsafe/models/templates/`, or a Jinja file."""
    path = chosen if isinstance(chosen, Path) else Path(__file__).parent / "templates" / f"{chosen}.jinja"
    return path.read_text(encoding="utf-8")
