"""Options that say how a model is read and trained, for the code that does so; `model_source` adds where it is from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from mmsafe.core.options import CheckpointName, Positive, existing, options


def _template(value: str | Path | None) -> str | Path | None:
    return existing(value) if isinstance(value, Path) else value


@options
class Trained:
    """Which parts of the model receive gradients."""

    language: bool = True
    projector: bool = True
    vision: bool = False


@options
class ModelOptions:
    """Options that every model has."""

    learning_rate: Positive = 1e-6
    """A good start for this model under preference optimisation; `optimizer.lr` follows it."""
    train: Trained = Trained()
    compile: bool = False
    """Train the language model's layers through `torch.compile`: the first steps wait for a compiler."""
    append_eos: bool = True
    """End every response with the end-of-sequence token; the paper's released code does not."""
    image_aspect_ratio: Literal["pad", "crop"] | None = "pad"
    """For LLaVA-1.5, since others have their own ways. `pad`: to a square with the mean colour, as it was trained;
    `crop`: to the centre, the HF default; null: as the checkpoint says."""
    chat_template: Annotated[Literal["vicuna_v1", "bpo_v1", "llava_hf"] | Path | None, AfterValidator(_template)] = None
    """One of `mmsafe/models/templates/`, or a Jinja file; null: the checkpoint's own, `vicuna_v1` if it is original."""


@options
class CheckpointOptions(ModelOptions):
    """How a checkpoint is read."""

    path: CheckpointName | None = None
    """Folder, or hub name such as `Qwen/Qwen3-VL-8B-Instruct` or `liuhaotian/llava-v1.5-7b`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights; mixed precision wants float32 master weights."""
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = False
    allow_pickle: bool = False
    """Also read weights from pickled `.bin` files, of which tensors only are read."""
    vision_tower: str | None = None
    """Original format: folder or hub name of the CLIP tower, where it is not in the checkpoint; null: as it says."""
    base: CheckpointName | None = None
    """LoRA adapters: the model that `path` was trained on, a folder or a hub name; null: as the adapter says."""
