"""`model=tiny`: a real LLaVA of about a million parameters, taught the micro-world when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.microworld.tiny_options import TinyOptions
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder
    from mmsafe.models.vlm import VLM


@options
class TinyModel(TinyOptions, ModelSource):
    """A tiny LLaVA, built and pre-trained by code, cached under a key of everything that it is made from."""

    def load(self) -> VLM:
        """From the cache, or built now with a progress bar."""
        from mmsafe.microworld.tiny_build import load_tiny

        return load_tiny(self)

    def encoder(self) -> Encoder:
        """Of the model before it is pre-trained, which changes nothing about tokens."""
        from mmsafe.microworld.tiny_build import build

        return build(self).encoder()
