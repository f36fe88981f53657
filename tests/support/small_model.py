"""The smallest LLaVA, tiny models of all families, and pictures of noise, for tests that take many forward passes."""

import copy
import dataclasses
import random
from functools import cache
from typing import Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmsafe.core.settings import Peft
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.adapters import add_lora
from mmsafe.models.family import Family
from mmsafe.models.model_options import ModelOptions
from mmsafe.models.vlm import VLM, set_trained

SIZES = Architecture(
    image_size=24, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)


@cache
def small_model(sizes: Architecture = SIZES) -> VLM:
    """The same random weights for all; tests that change them take a copy."""
    return TinyModel(pretraining=None, architecture=sizes).load()


def of_family(family: Family, attention: str = "sdpa", window: int | None = None) -> VLM:
    """A tiny model of a family, the same random weights for all; with a window, most of its layers slide it."""
    config, processor = family.tiny()
    processor.chat_template = processor.tokenizer.chat_template
    text = config.get_text_config()
    if window and hasattr(text, "sliding_window"):
        text.sliding_window, text.use_sliding_window = window, True
        if getattr(text, "layer_types", None):
            text.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # what begins at zero would hide a mistake
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0, 0.3)
    source = ModelOptions()
    set_trained(model, source.train)
    return VLM(model, processor, source)


LORA = Peft(method="lora", rank=4, alpha=8)


def moved(vlm: VLM, method: Literal["lora", "qlora"] = "lora") -> VLM:
    """With adapters and a connector that have moved."""
    add_lora(vlm, dataclasses.replace(LORA, method=method))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in vlm.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.05)
    return vlm


def copied(llava: VLM) -> VLM:
    return dataclasses.replace(llava, model=copy.deepcopy(llava.model))


@dataclasses.dataclass(frozen=True)
class Noise:
    """A random picture; not square, so that it is padded."""

    seed: int
    width: int = 40
    height: int = 30

    @property
    def key(self) -> str:
        return f"noise {self.seed}"

    name = key

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def load(self) -> Image.Image:
        pixels = random.Random(self.seed).randbytes(self.width * self.height * 3)
        return Image.frombytes("RGB", (self.width, self.height), pixels)
