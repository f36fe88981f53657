"""Which of two formats a checkpoint is in."""

from pathlib import Path
from typing import Any, Literal

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import ADAPTER, ADAPTER_CONFIG, CheckpointError, WeightFiles, read_json
from mmsafe.models.family import family_of

Format = Literal["hf", "original"]


def format_of_config(config: dict[str, Any]) -> Format:
    """The format that `config.json` is of: only LLaVA-1.5 has two; raises `CheckpointError` for an unknown model."""
    kind = str(config.get("model_type"))
    if kind not in {"llava", "llava_llama"}:
        try:
            family_of(kind)
        except UserError as error:
            raise CheckpointError(f"config.json says {error}") from error
        return "hf"
    is_hf = kind == "llava" and ("text_config" in config or "vision_config" in config)
    is_original = any(name.startswith("mm_") for name in config)
    if is_hf and is_original:
        raise CheckpointError("config.json mixes two formats: it has both text_config and mm_… entries")
    if not is_hf and not is_original:
        raise CheckpointError(
            f"config.json says '{kind}' but has neither text_config (Hugging Face format) nor mm_vision_tower "
            "(original LLaVA format)"
        )
    return "hf" if is_hf else "original"


def format_of(folder: Path, *, allow_pickle: bool) -> tuple[Format, WeightFiles]:
    """The format of a whole model, and its weights; raises `CheckpointError` naming what is there instead."""
    if (folder / ADAPTER / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"holds a LoRA adapter in {ADAPTER}/ beside its weights, which may be in them or not; name "
            f"{folder / ADAPTER} to merge it, or move it away"
        )
    form = format_of_config(read_json(folder / "config.json"))
    return form, WeightFiles(folder, allow_pickle=allow_pickle)
