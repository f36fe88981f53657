"""The smallest LLaVA and pictures of noise, for tests that take many forward passes."""

from __future__ import annotations

import copy
import dataclasses
import random
from functools import cache

from PIL import Image

from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.llava import Llava

SIZES = Architecture(
    image_size=24, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)


@cache
def small_model(sizes: Architecture = SIZES) -> Llava:
    """The same random weights for all; tests that change them take a copy."""
    return TinyModel(pretraining=None, architecture=sizes).load()


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
