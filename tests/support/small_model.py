"""The smallest LLaVA, tiny models of all families, and pictures of noise, for tests that take many forward passes."""

from __future__ import annotations

import copy
import dataclasses
import random
from functools import cache

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.family import Family
from mmsafe.models.llava import Llava, set_trained
from mmsafe.models.model_options import ModelOptions

SIZES = Architecture(
    image_size=24, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)


@cache
def small_model(sizes: Architecture = SIZES) -> Llava:
    """The same random weights for all; tests that change them take a copy."""
    return TinyModel(pretraining=None, architecture=sizes).load()


def of_family(family: Family) -> Llava:
    """A tiny model of a family, the same random weights for all."""
    config, processor = family.tiny()
    processor.chat_template = processor.tokenizer.chat_template
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():  # what begins at zero would hide a mistake
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0, 0.3)
    source = ModelOptions()
    set_trained(model, source.train)
    return Llava(model, processor, source)


def copied(llava: Llava) -> Llava:
    return dataclasses.replace(llava, model=copy.deepcopy(llava.model))


@dataclasses.dataclass(frozen=True)
class Noise:
    """A random picture; not square, so that it is padded."""

    seed: int

    @property
    def key(self) -> str:
        return f"noise {self.seed}"

    name = key

    def load(self) -> Image.Image:
        return Image.frombytes("RGB", (40, 30), random.Random(self.seed).randbytes(40 * 30 * 3))
