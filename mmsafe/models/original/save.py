"""Writes a LLaVA-1.5 in its original format: every weight of the original vocabulary bit by bit as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from mmsafe.core.files import write_json
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.llava import Llava
from mmsafe.models.original import layout as form
from mmsafe.models.original.sentencepiece import CONTROL, UNKNOWN, pieces_of, write_pieces

SHARD = "5GB"
OWN_TOWER = "vision_tower"
"""Folder for a tower that no hub name stands for."""


def save_original(llava: Llava, folder: Path, *, beside: Path | None = None) -> None:
    """Write `llava` into `folder`; `beside` is where it was loaded from, whose `tokenizer.model` is kept.

    Raises `CheckpointError` for a model that the format cannot hold.
    """
    model, config, tokenizer = llava.model, llava.model.config, llava.processor.tokenizer
    _check(config, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(tokenizer, folder, beside)
    kept = getattr(config, "original_config", None) or {}
    vocabulary = int(kept.get("vocab_size", tokenizer.convert_tokens_to_ids(llava.processor.image_token)))
    state = model.state_dict()
    _save_weights({original: state[name] for name, original in form.name_map(model).items()}, folder, vocabulary)
    written = form.original_config(
        config,
        vocabulary=vocabulary,
        tower=_tower(llava, kept.get("mm_vision_tower"), folder),
        pad=bool(llava.processor.image_processor.do_pad),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    write_json(folder / "config.json", written)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    write_json(folder / "generation_config.json", ends)
    (folder / "chat_template.jinja").write_text(str(llava.processor.chat_template), encoding="utf-8")


def _check(config: Any, tokenizer: Any) -> None:
    kinds = [config.text_config.model_type, config.vision_config.model_type]
    if kinds != ["llama", "clip_vision_model"]:
        raise CheckpointError(f"the original format holds a Llama that sees by CLIP, not {' and '.join(kinds)}")
    odd = not isinstance(config.vision_feature_layer, int) or not config.multimodal_projector_bias
    if odd or config.projector_hidden_act != "gelu":
        raise CheckpointError("the original format needs LLaVA-1.5's projector, on one layer of the tower")
    model = _model(tokenizer)
    if not model.get("byte_fallback") or tokenizer.convert_tokens_to_ids("<image>") < len(model["vocab"]):
        raise CheckpointError("the original format needs a Llama tokenizer (sentencepiece), and this model has another")


def _model(tokenizer: Any) -> dict[str, Any]:
    """The byte-pair model of a tokenizer: `vocab` and `merges`, without tokens that were added later."""
    return dict(json.loads(tokenizer.backend_tokenizer.to_str())["model"])


def _save_weights(state: dict[str, Tensor], folder: Path, vocabulary: int) -> None:
    """One file, or shards with an index; rows of tokens that the original does not have are cut off."""
    cut = {name: tensor[:vocabulary] if name in form.EMBEDDINGS else tensor for name, tensor in state.items()}
    plan = split_torch_state_dict_into_shards(cut, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: cut[name].contiguous() for name in names}, folder / file, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def _prefixes_every_part(tokenizer: Any) -> bool:
    """Whether a space is put in front of what follows a special token too: what `legacy` means."""
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    return (about["pre_tokenizer"] or {}).get("prepend_scheme") == "always" or "Prepend" in json.dumps(
        about["normalizer"]
    )


def _save_tokenizer(tokenizer: Any, folder: Path, beside: Path | None) -> None:
    model = _model(tokenizer)
    unknown, bos, eos = tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token
    if beside is not None and (beside / "tokenizer.model").is_file():
        shutil.copyfile(beside / "tokenizer.model", folder / "tokenizer.model")
    else:
        by_id = sorted(model["vocab"], key=model["vocab"].__getitem__)
        pieces = pieces_of(by_id, model["merges"], {unknown: UNKNOWN, bos: CONTROL, eos: CONTROL})
        write_pieces(folder / "tokenizer.model", pieces)
    special = {"bos_token": bos, "eos_token": eos, "unk_token": unknown, "pad_token": unknown}
    about = {
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": _prefixes_every_part(tokenizer),
        "model_max_length": tokenizer.model_max_length,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", about | special)
    image = tokenizer.convert_tokens_to_ids("<image>")
    between = {
        text: number for text, number in tokenizer.get_added_vocab().items() if len(model["vocab"]) <= number < image
    }
    if between:
        write_json(folder / "added_tokens.json", between)


def _tower(llava: Llava, named: str | None, folder: Path) -> str:
    """What `mm_vision_tower` says: as it was, the hub's tower of this size, or the tower's own folder, written here."""
    if named is not None and (named in form.TOWERS or Path(named).is_absolute()):
        return named
    vision = llava.model.config.vision_config
    for name, known in form.TOWERS.items():
        if all(getattr(vision, key) == getattr(known, key) for key in [*form.CLIP_L, "image_size"]):
            return name
    tower: Any = llava.model.model.vision_tower
    tower.save_pretrained(folder / OWN_TOWER)
    about = {**llava.processor.image_processor.to_dict(), "image_processor_type": "CLIPImageProcessor"}
    write_json(folder / OWN_TOWER / "preprocessor_config.json", about)
    return OWN_TOWER
