"""Where a model comes from: what a file in `conf/model/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmsafe.options import Positive, options

if TYPE_CHECKING:
    from mmsafe.models.llava import Llava


@options
class Trained:
    """Which parts of the model receive gradients."""

    language: bool = True
    projector: bool = True
    vision: bool = False


@options
class ModelSource(ABC):
    """Base of all models; the fields here are options that every model has."""

    learning_rate: Positive = 1e-6
    """A good start for this model under preference optimisation; `optimizer.lr` follows it."""
    train: Trained = Trained()
    append_eos: bool = True
    """End every response with the end-of-sequence token; the paper's released code does not."""
    image_aspect_ratio: Literal["pad", "crop"] = "pad"
    """`pad`: to a square with the mean colour, as LLaVA-1.5 was trained; `crop`: to the centre, the HF default."""

    @abstractmethod
    def load(self) -> Llava:
        """Model and processor, ready to use; raises `UserError` saying what to download where it is missing."""


@options
class PretrainedLlava(ModelSource):
    """A LLaVA-1.5 checkpoint in Hugging Face format: a folder or a hub name."""

    path: str | None = None
    """Folder, or hub name such as `llava-hf/llava-1.5-7b-hf`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; mixed precision wants float32 master weights."""
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    chat_template: Path | None = None
    """A Jinja file; null takes the checkpoint's own template."""

    def load(self) -> Llava:
        """Load weights and processor from `path`."""
        from mmsafe.models.llava import load_pretrained

        return load_pretrained(self)
