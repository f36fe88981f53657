"""Reads and writes `tokenizer.model`, the vocabulary of a Llama, without the sentencepiece library.

Such a file is a protocol-buffer message (sentencepiece_model.proto): field 1 is a piece (1 text, 2 score, 3 kind),
field 2 how it was trained (3 algorithm, 4 size, 35 whether unknown characters become bytes), field 3 how text is
normalised (1 name, 2 rules, 3 whether a space is put in front, 4 whether runs of spaces are shortened).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmsafe.models.checkpoints import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Kinds of pieces; only normal ones are made by merging."""
PIECE, TRAINER, NORMALIZER = 1, 2, 3
BPE = 2
LONGEST = 1000
"""Characters of a token; sentencepiece itself makes 16 at most."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """An entry of the vocabulary; its id is its position. Of two possible merges, that with more score comes first."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


def read_pieces(path: Path) -> list[Piece]:
    """The vocabulary in `path`; raises `CheckpointError` where it is damaged or not a byte-pair model as Llama's."""
    pieces: list[Piece] = []
    algorithm: bytes | int | None = None
    rules: bytes | int = b""
    try:
        for number, value in _fields(path.read_bytes()):
            if number == PIECE:
                pieces.append(_piece(dict(_fields(value))))
            elif number == TRAINER:
                algorithm = dict(_fields(value)).get(3)
            elif number == NORMALIZER:
                rules = dict(_fields(value)).get(2, b"")
    except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path.name} is damaged, or no sentencepiece model") from error
    kinds = [piece.kind for piece in pieces]
    special = (kinds.count(UNKNOWN), kinds.count(CONTROL)) == (1, 2)  # and those are begin and end, in this order
    if any(len(piece.text) > LONGEST for piece in pieces):
        raise CheckpointError(f"{path.name} is damaged: it has a token of more than {LONGEST} characters")
    if algorithm != BPE or rules or BYTE not in kinds or not special:
        raise CheckpointError(
            f"{path.name} is not the vocabulary of a Llama (byte pairs, bytes for unknown characters)"
        )
    return pieces


def write_pieces(path: Path, pieces: Sequence[Piece]) -> None:
    """Write a model that sentencepiece loads and that splits text as Llama's does."""
    message = b"".join(_field(PIECE, _message(piece)) for piece in pieces)
    message += _field(TRAINER, _field(3, BPE) + _field(4, len(pieces)) + _field(35, 1))
    message += _field(NORMALIZER, _field(1, b"identity") + _field(3, 1) + _field(4, 0))
    path.write_bytes(message)


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The pairs that make a piece, those of the piece with the highest score first."""
    normal = {piece.text: number for number, piece in enumerate(pieces) if piece.kind == NORMAL}
    order = sorted(normal.values(), key=lambda number: (-pieces[number].score, number))
    found = []
    for text in (pieces[number].text for number in order):
        pairs = ((text[:split], text[split:]) for split in range(1, len(text)))
        found += [(left, right) for left, right in pairs if left in normal and right in normal]
    return found


def pieces_of(vocabulary: Iterable[str], pairs: Iterable[Sequence[str]], special: dict[str, int]) -> list[Piece]:
    """The pieces of a byte-pair tokenizer: its `vocabulary` by id, its merges, the kinds of its special tokens."""
    rank: dict[str, int] = {}
    for left, right in pairs:
        rank.setdefault(left + right, len(rank))
    pieces = []
    for text in vocabulary:
        is_byte = len(text) == len("<0x00>") and text.startswith("<0x") and text.endswith(">")
        kind = special.get(text, BYTE if is_byte else NORMAL)
        score = -float(rank.setdefault(text, len(rank))) if kind == NORMAL else 0.0
        pieces.append(Piece(text, score, kind))
    return pieces


def _piece(fields: dict[int, bytes | int]) -> Piece:
    text, score, kind = fields[1], fields.get(2, bytes(4)), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece of another form")
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _message(piece: Piece) -> bytes:
    score = bytes([2 << 3 | FIXED32]) + struct.pack("<f", piece.score)
    return _field(1, piece.text.encode()) + score + (_field(3, piece.kind) if piece.kind != NORMAL else b"")


def _fields(data: bytes | int) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a message: an integer, or bytes."""
    if isinstance(data, int):
        raise ValueError("a number where a message belongs")
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, form = key >> 3, key & 7
        if form == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        size = {FIXED32: 4, FIXED64: 8}.get(form)
        if form == LENGTH:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise ValueError("not a protocol buffer")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:  # of 64 bits
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than 64 bits")


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _encoded(number << 3 | VARINT) + _encoded(value)
    return _encoded(number << 3 | LENGTH) + _encoded(len(value)) + value


def _encoded(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
