"""Loads a LLaVA-1.5 in its original format.

The vocabulary grows as in Hugging Face's conversion: `<image>` and `<pad>` behind the last token, then rows up to a
multiple of 64 (32000 become 32064). Every new row is the mean of the old ones, so that nothing is drawn at random. An
image placeholder's embedding is replaced by image features before it is read. A row of the head that is the mean of the
others has the mean of their logits: it is never the largest, and all 64 together raise the softmax's normaliser by at
most 64/32000 of itself. Saving in the original format cuts the new rows off again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from tokenizers import AddedToken
from transformers import CLIPVisionConfig, CLIPVisionModel, GenerationConfig, LlamaTokenizer
from transformers import LlavaForConditionalGeneration as LlavaModel
from transformers.initialization import no_init_weights
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import CheckpointError, WeightFiles, first_few, read_json, wanted_files
from mmsafe.models.hub import reachable
from mmsafe.models.model_options import CheckpointOptions
from mmsafe.models.original import layout as form
from mmsafe.models.original.sentencepiece import CONTROL, UNKNOWN, USER_DEFINED, merges, read_pieces
from mmsafe.models.pretrained import check_files, check_size, from_pretrained, in_one_line, load_model

log = logging.getLogger(__name__)
IMAGE, PAD = "<image>", "<pad>"
MULTIPLE = 64


class Parts(NamedTuple):
    """All of a checkpoint but its weights."""

    config: Any
    tokenizer: Any
    image_processor: Any
    tower: str
    """Folder or hub name of the vision tower."""
    vocabulary: int
    """Tokens before the vocabulary grew."""


def read_parts(source: CheckpointOptions, folder: Path) -> Parts:
    """What the checkpoint in `folder` has beside its weights.

    Raises `CheckpointError` where a part is missing, damaged or not LLaVA-1.5's.
    """
    original = read_json(folder / "config.json")
    form.check_supported(original)
    tokenizer: Any = load_tokenizer(folder)
    vocabulary = int(original["vocab_size"])
    if len(tokenizer) - 2 > vocabulary:
        raise CheckpointError(f"its tokenizer has {len(tokenizer) - 2} tokens, config.json says {vocabulary}")
    tower = _tower_place(source.vision_tower or original["mm_vision_tower"], folder)
    vision = _tower_config(tower)
    config = form.hf_config(
        original,
        vision,
        rows=-(-max(vocabulary, len(tokenizer)) // MULTIPLE) * MULTIPLE,
        image_id=tokenizer.convert_tokens_to_ids(IMAGE),
        pad_id=tokenizer.pad_token_id,
    )
    image_processor = _image_processor(tower, vision, pad=source.image_aspect_ratio == "pad")
    return Parts(config, tokenizer, image_processor, tower, vocabulary)


def load_original(source: CheckpointOptions, folder: Path, weights: WeightFiles) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor of the checkpoint in `folder`; raises `CheckpointError` as `read_parts`."""
    config, tokenizer, image_processor, tower, vocabulary = read_parts(source, folder)
    inside = any(name.startswith(form.TOWER) for name in weights.names)
    beside = {} if inside else _tower_weights(tower, config.vision_config, source.allow_pickle)
    check_size(LlavaModel, config, weights.count + sum(weight.numel() for weight in beside.values()))
    with no_init_weights():  # one allocation, filled file by file below
        model = LlavaModel._from_config(
            config, dtype=getattr(torch, source.dtype), attn_implementation=source.attention
        )
    if beside:
        model.model.vision_tower.load_state_dict(beside)
    _fill(model, weights, vocabulary, tower_inside=inside)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval(), tokenizer, image_processor


def load_tokenizer(folder: Path) -> LlamaTokenizer:
    """The tokenizer of `tokenizer.model` and the JSON files beside it, with `<image>` and `<pad>` added at its end."""
    about = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if not (folder / "tokenizer.model").is_file():
        raise CheckpointError("has no tokenizer.model")
    pieces = read_pieces(folder / "tokenizer.model")
    bos, eos = [piece.text for piece in pieces if piece.kind == CONTROL][:2]
    tokenizer = LlamaTokenizer(
        vocab={piece.text: number for number, piece in enumerate(pieces)},
        merges=merges(pieces),
        legacy=bool(about.get("legacy", True)),  # as where these files were written
        unk_token=next(piece.text for piece in pieces if piece.kind == UNKNOWN),
        bos_token=bos,
        eos_token=eos,
        model_max_length=about.get("model_max_length"),
    )
    defined = [AddedToken(piece.text, normalized=False) for piece in pieces if piece.kind == USER_DEFINED]
    tokenizer.add_tokens([*defined, *_added(folder, about, len(pieces))])
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    return tokenizer


def _added(folder: Path, about: dict[str, Any], known: int) -> list[AddedToken]:
    """Tokens that were added behind the vocabulary, by id; both forms in which `transformers` wrote them."""
    path = folder / "added_tokens.json"
    by_id = {int(number): token["content"] for number, token in about.get("added_tokens_decoder", {}).items()}
    by_id |= {int(number): text for text, number in (read_json(path) if path.exists() else {}).items()}
    later = {number: text for number, text in sorted(by_id.items()) if number >= known}
    if list(later) != list(range(known, known + len(later))):
        raise CheckpointError("the ids of its added tokens have gaps")
    return [AddedToken(text, special=True, normalized=False) for text in later.values()]


def _tower_place(name: str, folder: Path) -> str:
    """A folder inside the checkpoint, another folder, or the name as it is."""
    for place in (folder / name, Path(name).expanduser()):
        if place.is_dir():
            return str(place)
    return name


def _tower_config(tower: str) -> Any:
    if tower in form.TOWERS:
        return form.TOWERS[tower]
    folder = _tower_folder(tower, weights=False)
    with _about_tower(tower):
        check_files(folder)
        return from_pretrained(CLIPVisionConfig, folder)


def _tower_weights(tower: str, vision: Any, allow_pickle: bool) -> dict[str, torch.Tensor]:
    folder = _tower_folder(tower, pickles=allow_pickle)
    with _about_tower(tower):
        model = load_model(CLIPVisionModel, folder, allow_pickle=allow_pickle, config=vision, dtype="auto")
        return dict(model.state_dict())


def _tower_folder(tower: str, *, weights: bool = True, pickles: bool = False) -> Path:
    """Where the tower is; one of the hub is downloaded."""
    if Path(tower).is_dir():
        return Path(tower)
    if not reachable(tower):
        raise CheckpointError(
            f"its vision tower '{tower}' is not in the checkpoint, and neither on this machine nor to be had from the "
            f"hub; where there is a network run `hf download {tower} --local-dir DIR`, then add model.vision_tower=DIR"
        )
    with _about_tower(tower):
        return Path(snapshot_download(tower, allow_patterns=wanted_files(weights=weights, pickles=pickles)))


@contextmanager
def _about_tower(tower: str) -> Iterator[None]:
    try:
        with in_one_line(f"its vision tower {tower}"):
            yield
    except UserError as error:
        raise CheckpointError(str(error)) from error


def _image_processor(tower: str, vision: Any, *, pad: bool) -> LlavaImageProcessorPil:
    if (Path(tower) / "preprocessor_config.json").is_file():
        with _about_tower(tower):
            processor: LlavaImageProcessorPil = from_pretrained(LlavaImageProcessorPil, tower, do_pad=pad)
            return processor
    size = vision.image_size
    return LlavaImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_pad=pad)


@torch.no_grad()
def _fill(model: LlavaModel, weights: WeightFiles, vocabulary: int, *, tower_inside: bool) -> None:
    """Copy every weight to its place; raises `CheckpointError` naming what is missing or of another shape."""
    state = model.state_dict()
    places = {
        original: state[name]
        for name, original in form.name_map(model).items()
        if tower_inside or not original.startswith(form.TOWER)
    }
    extra = []
    for name, tensor in weights.tensors():
        place = places.pop(name, None)
        if place is None:
            extra += [] if name.endswith(form.COMPUTED) else [name]
            continue
        old = place[:vocabulary] if name in form.EMBEDDINGS else place
        if old.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, config.json asks for {tuple(old.shape)}"
            raise CheckpointError(f"its weight {name} has the shape {shapes}")
        old.copy_(tensor)
        if name in form.EMBEDDINGS:
            place[vocabulary:] = tensor.double().mean(0).to(place.dtype)
    if places:
        raise CheckpointError(f"{len(places)} weights are missing: {first_few(places)}")
    if extra:
        log.warning("%d weights are not of LLaVA-1.5 and were left out: %s", len(extra), first_few(extra))
