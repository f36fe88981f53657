"""Writes a LLaVA-1.5 in its original format: every weight of the original vocabulary bit by bit as it is."""

from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict

from mmsafe.core.files import write_json
from mmsafe.models.original import layout
from mmsafe.models.original.tokenizer import check_tokenizer, save_tokenizer
from mmsafe.models.vlm import VLM

SHARD = "5GB"
OWN_TOWER = "vision_tower"
"""Folder for a tower that no hub name stands for."""


def save_original(vlm: VLM, folder: Path, *, beside: Path | None = None) -> None:
    """Write `vlm` into `folder`; `beside` is where it was loaded from, whose `tokenizer.model` is kept.

    Raises `CheckpointError` for a model that the format cannot hold.
    """
    model, config, tokenizer = vlm.model, vlm.model.config, vlm.processor.tokenizer
    layout.check_fits(config)
    check_tokenizer(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, folder, beside)
    kept = getattr(config, "original_config", None) or {}
    vocabulary = int(kept.get("vocab_size", tokenizer.convert_tokens_to_ids(vlm.processor.image_token)))
    weights = model.state_dict()
    state = {original: weights[name] for name, original in layout.name_map(model).items()}
    state |= {name: state[name][:vocabulary].clone() for name in layout.EMBEDDINGS}
    save_torch_state_dict(state, folder, max_shard_size=SHARD)
    written = layout.original_config(
        config,
        vocabulary=vocabulary,
        tower=_tower(vlm, kept.get("mm_vision_tower"), folder),
        pad=bool(vlm.processor.image_processor.do_pad),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    write_json(folder / "config.json", written)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    write_json(folder / "generation_config.json", ends)
    (folder / "chat_template.jinja").write_text(str(vlm.processor.chat_template), encoding="utf-8")


def _tower(vlm: VLM, named: str | None, folder: Path) -> str:
    """What `mm_vision_tower` says: as it was, the hub's tower of this size, or the tower's own folder, written here."""
    if named is not None and (named in layout.TOWERS or Path(named).is_absolute()):
        return named
    vision = vlm.model.config.vision_config
    for name, known in layout.TOWERS.items():
        if all(getattr(vision, key) == getattr(known, key) for key in [*layout.CLIP_L, "image_size"]):
            return name
    tower: Any = vlm.model.model.vision_tower
    tower.save_pretrained(folder / OWN_TOWER)
    about = {**vlm.processor.image_processor.to_dict(), "image_processor_type": "CLIPImageProcessor"}
    write_json(folder / OWN_TOWER / "preprocessor_config.json", about)
    return OWN_TOWER
