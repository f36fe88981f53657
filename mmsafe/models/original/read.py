"""Loads a LLaVA-1.5 in its original format.

The vocabulary grows as in Hugging Face's conversion: `<image>` and `<pad>` behind the last token, then rows up to a
multiple of 64 (32000 become 32064). Every new row is the mean of the old ones, so that nothing is drawn at random. An
image placeholder's embedding is replaced by image features before it is read. A row of the head that is the mean of the
others has the mean of their logits: it is never the largest, and all 64 together raise the softmax's normaliser by at
most 64/32000 of itself. Saving in the original format cuts the new rows off again.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, GenerationConfig
from transformers import LlavaForConditionalGeneration as LlavaModel
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmsafe.models.checkpoints import CheckpointError, WeightFiles, first_few, read_json
from mmsafe.models.locate import downloaded
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.original import layout
from mmsafe.models.original.tokenizer import IMAGE, load_tokenizer
from mmsafe.models.pretrained import about_part, check_files, from_pretrained, load_model

log = logging.getLogger(__name__)
MULTIPLE = 64


def read_parts(source: CheckpointOptions, folder: Path) -> tuple[Any, Any, Any]:
    """Config, tokenizer and image processor of the checkpoint in `folder`.

    Raises `CheckpointError` where a part is missing, damaged or not LLaVA-1.5's.
    """
    original = read_json(folder / "config.json")
    layout.check_supported(original)
    tokenizer: Any = load_tokenizer(folder)
    vocabulary = int(original["vocab_size"])
    if len(tokenizer) - 2 > vocabulary:
        raise CheckpointError(f"its tokenizer has {len(tokenizer) - 2} tokens, config.json says {vocabulary}")
    tower = _tower(source, folder, original)
    vision = layout.TOWERS.get(tower) or _tower_config(tower)
    config = layout.hf_config(
        original,
        vision,
        rows=-(-max(vocabulary, len(tokenizer)) // MULTIPLE) * MULTIPLE,
        image_id=tokenizer.convert_tokens_to_ids(IMAGE),
        pad_id=tokenizer.pad_token_id,
    )
    side: Any = vision.image_size
    crop, aspect = {"height": side, "width": side}, original.get("image_aspect_ratio", "pad")
    pads = (source.image_aspect_ratio or aspect) == "pad"
    images = LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size=crop, do_pad=pads)
    if (Path(tower) / "preprocessor_config.json").is_file():
        with about_part(_of(tower)):
            images = from_pretrained(LlavaImageProcessorPil, tower, do_pad=pads)
    return config, tokenizer, images


def load_original(
    source: CheckpointOptions, folder: Path, weights: WeightFiles, config: Any, *, dtype: torch.dtype, **options: Any
) -> Any:
    """The model in `folder`; raises `CheckpointError` naming weights that are missing or of another shape."""
    with torch.device("meta"):
        names = {original: name for name, original in layout.name_map(LlavaModel(config)).items()}
    state, extra = {}, []
    for original, tensor in weights.tensors():
        if original in names:
            state[names[original]] = _extended(tensor, config, dtype) if original in layout.EMBEDDINGS else tensor
        elif not original.endswith(layout.COMPUTED):
            extra.append(original)
    if extra:
        log.warning("%d weights are not of LLaVA-1.5 and were left out: %s", len(extra), first_few(extra))
    if not any(name.startswith(layout.HF_TOWER) for name in state):
        tower = _tower(source, folder, config.original_config)
        beside = _tower_weights(tower, config.vision_config, source.allow_pickle)
        state |= {layout.HF_TOWER + name: tensor for name, tensor in beside.items()}
    model = load_model(LlavaModel, folder, config=config, state_dict=state, dtype=dtype, **options)
    del model._weight_conversions  # so that it is saved under the names that the hub's checkpoints have, as a new one
    text = config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    return model


def _extended(tensor: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    """Rows for the tokens that are new behind those of `tensor`, which keeps its shape where it is another one."""
    vocabulary, rows = config.original_config["vocab_size"], config.text_config.vocab_size
    if len(tensor) != vocabulary:
        return tensor
    mean = tensor.double().mean(0).to(dtype)
    return torch.cat([tensor.to(dtype), mean.expand(rows - vocabulary, -1)])


def _tower(source: CheckpointOptions, folder: Path, original: dict[str, Any]) -> str:
    """The vision tower: a folder inside the checkpoint, another folder, or a name of the hub."""
    name = source.vision_tower or original["mm_vision_tower"]
    places = [str(place) for place in (folder / name, Path(name).expanduser()) if place.is_dir()]
    return places[0] if places else name


def _tower_config(tower: str) -> Any:
    folder = _tower_folder(tower, weights=False)
    with about_part(_of(tower)):
        check_files(folder)
        return from_pretrained(CLIPVisionConfig, folder)


def _tower_weights(tower: str, vision: Any, allow_pickle: bool) -> dict[str, Tensor]:
    folder = _tower_folder(tower, weights=True, pickles=allow_pickle)
    with about_part(_of(tower)):
        model = load_model(CLIPVisionModel, folder, allow_pickle=allow_pickle, config=vision, dtype="auto")
        return dict(model.state_dict())


def _tower_folder(tower: str, *, weights: bool, pickles: bool = False) -> Path:
    if Path(tower).is_dir():
        return Path(tower)
    with about_part(f"its vision tower '{tower}' is not in the checkpoint"):
        return downloaded(tower, "add model.vision_tower=DIR", weights=weights, pickles=pickles)


def _of(tower: str) -> str:
    return f"its vision tower {tower}"
