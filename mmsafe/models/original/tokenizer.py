"""The tokenizer of the original format: sentencepiece's `tokenizer.model`, and the JSON files beside it.

`transformers` brings the definition of that file, protobuf reads it; the sentencepiece library is not needed.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken
from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from mmsafe.core.files import write_json
from mmsafe.models.checkpoints import CheckpointError, read_json

FILE = "tokenizer.model"
IMAGE, PAD = "<image>", "<pad>"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Kinds of pieces; only normal ones are made by merging."""
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
BPE = 2
LONGEST = 1000
"""Characters of a token; sentencepiece itself makes 16 at most."""


def load_tokenizer(folder: Path) -> LlamaTokenizer:
    """The tokenizer in `folder`, with `<image>` and `<pad>` added at its end."""
    about = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if not (folder / FILE).is_file():
        raise CheckpointError(f"has no {FILE}")
    pieces = read_pieces(folder / FILE)
    bos, eos = [piece.piece for piece in pieces if piece.type == CONTROL]
    tokenizer = LlamaTokenizer(
        vocab={piece.piece: number for number, piece in enumerate(pieces)},
        merges=list(merges(pieces)),
        legacy=bool(about.get("legacy", True)),  # as where these files were written
        unk_token=next(piece.piece for piece in pieces if piece.type == UNKNOWN),
        bos_token=bos,
        eos_token=eos,
        model_max_length=about.get("model_max_length"),
    )
    defined = [AddedToken(piece.piece, normalized=False) for piece in pieces if piece.type == USER_DEFINED]
    tokenizer.add_tokens([*defined, *_added(folder, about, len(pieces))])
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    return tokenizer


def read_pieces(path: Path) -> Any:
    """The vocabulary in `path`; raises `CheckpointError` where it is damaged or not a byte-pair model as Llama's."""
    model = import_protobuf().ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        longest = max((len(piece.piece) for piece in model.pieces), default=0)
    except (DecodeError, ValueError) as error:
        raise CheckpointError(f"{path.name} is damaged, or no sentencepiece model") from error
    if longest > LONGEST:
        raise CheckpointError(f"{path.name} is damaged: it has a token of more than {LONGEST} characters")
    kinds = [piece.type for piece in model.pieces]
    special = (kinds.count(UNKNOWN), kinds.count(CONTROL)) == (1, 2)  # and those are begin and end, in this order
    rules = model.normalizer_spec.precompiled_charsmap
    if model.trainer_spec.model_type != BPE or rules or BYTE not in kinds or not special:
        raise CheckpointError(
            f"{path.name} is not the vocabulary of a Llama (byte pairs, bytes for unknown characters)"
        )
    return model.pieces


def merges(pieces: Any) -> Iterator[tuple[str, str]]:
    """The pairs that make a piece, those of the piece with the highest score first."""
    normal = {piece.piece: piece.score for piece in pieces if piece.type == NORMAL}
    for text in sorted(normal, key=normal.__getitem__, reverse=True):
        pairs = ((text[:split], text[split:]) for split in range(1, len(text)))
        yield from ((left, right) for left, right in pairs if left in normal and right in normal)


def _added(folder: Path, about: dict[str, Any], known: int) -> list[AddedToken]:
    """Tokens that were added behind the vocabulary, by id; both forms in which `transformers` wrote them."""
    path = folder / "added_tokens.json"
    by_id = {int(number): token["content"] for number, token in about.get("added_tokens_decoder", {}).items()}
    by_id |= {int(number): text for text, number in (read_json(path) if path.exists() else {}).items()}
    later = {number: text for number, text in sorted(by_id.items()) if number >= known}
    if list(later) != list(range(known, known + len(later))):
        raise CheckpointError("the ids of its added tokens have gaps")
    return [AddedToken(text, special=True, normalized=False) for text in later.values()]


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `CheckpointError` for a tokenizer that `tokenizer.model` cannot hold."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if not model.get("byte_fallback") or tokenizer.convert_tokens_to_ids(IMAGE) < len(model["vocab"]):
        raise CheckpointError("the original format needs a Llama tokenizer (sentencepiece), and this model has another")


def save_tokenizer(tokenizer: Any, folder: Path, beside: Path | None) -> None:
    """Write `tokenizer` into `folder`; a `tokenizer.model` that is in `beside` is kept as it is."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].__getitem__)
    special = {"unk_token": UNKNOWN, "bos_token": CONTROL, "eos_token": CONTROL}
    if beside is not None and (beside / FILE).is_file():
        shutil.copyfile(beside / FILE, folder / FILE)
    else:
        kinds = dict.fromkeys(BYTES, BYTE) | {getattr(tokenizer, name): kind for name, kind in special.items()}
        write_pieces(folder / FILE, vocabulary, backend["model"]["merges"], kinds)
    named = {name: getattr(tokenizer, name) for name in special} | {"pad_token": tokenizer.unk_token}
    scheme = (backend["pre_tokenizer"] or {}).get("prepend_scheme")
    about = {
        "add_bos_token": True,
        "add_eos_token": False,
        # Whether a space is put in front of what follows a special token too.
        "legacy": scheme == "always" or "Prepend" in json.dumps(backend["normalizer"]),
        "model_max_length": tokenizer.model_max_length,
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
    }
    write_json(folder / "special_tokens_map.json", named)
    write_json(folder / "tokenizer_config.json", about | named)
    added = range(len(vocabulary), tokenizer.convert_tokens_to_ids(IMAGE))
    if between := {text: number for text, number in tokenizer.get_added_vocab().items() if number in added}:
        write_json(folder / "added_tokens.json", between)


def write_pieces(path: Path, vocabulary: list[str], pairs: list[list[str]], kinds: dict[str, int]) -> None:
    """Write a byte-pair vocabulary, by id, as a model that sentencepiece loads and that splits text as Llama's does.

    Of two possible merges, that with the higher score comes first.
    """
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    model = import_protobuf().ModelProto()
    for text in vocabulary:
        kind = kinds.get(text, NORMAL)
        score = -float(rank.setdefault(text, len(rank))) if kind == NORMAL else 0.0
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type, model.trainer_spec.vocab_size = BPE, len(vocabulary)
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", True
    model.normalizer_spec.remove_extra_whitespaces = False
    path.write_bytes(model.SerializeToString())
