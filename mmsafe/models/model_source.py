"""Where a model comes from: what a file in `conf/model/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from mmsafe.core.options import CheckpointName, Positive, existing, options

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder
    from mmsafe.models.llava import Llava


def _template(value: str | Path | None) -> str | Path | None:
    return existing(value) if isinstance(value, Path) else value


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
    chat_template: Annotated[Literal["vicuna_v1", "bpo_v1", "llava_hf"] | Path | None, AfterValidator(_template)] = None
    """One of `mmsafe/models/templates/`, or a Jinja file; null: the checkpoint's own, `vicuna_v1` if it is original."""

    @abstractmethod
    def load(self) -> Llava:
        """Model and processor, ready to use; raises `UserError` saying what to download where it is missing."""

    def encoder(self) -> Encoder:
        """What turns examples into this model's token ids; models of ours load no weights for it."""
        return self.load().encoder()


@options
class PretrainedLlava(ModelSource):
    """A LLaVA-1.5 checkpoint, a folder or a hub name, in Hugging Face's or the original format, told by its keys.

    A folder with a LoRA adapter means its base with the adapter merged.
    """

    path: CheckpointName | None = None
    """Folder, or hub name such as `llava-hf/llava-1.5-7b-hf` or `liuhaotian/llava-v1.5-7b`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; mixed precision wants float32 master weights."""
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    allow_pickle: bool = False
    """Also read weights from pickled `.bin` files, of which tensors only are read."""
    vision_tower: str | None = None
    """Original format: folder or hub name of the CLIP tower, where it is not in the checkpoint; null: as it says."""
    base: CheckpointName | None = None
    """LoRA adapters: the model that `path` was trained on, a folder or a hub name; null: as the adapter says."""

    def load(self) -> Llava:
        """Load weights and processor from `path`."""
        from mmsafe.models.llava import load_pretrained

        return load_pretrained(self)

    def encoder(self) -> Encoder:
        """Read tokenizer, image processor and chat template from `path`, and no weights."""
        from mmsafe.models.encoder_load import load_encoder

        return load_encoder(self)
