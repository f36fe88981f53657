"""What every reader returns: one prompt, its images, its responses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageSource(Protocol):
    """An image that is decoded only when it is needed."""

    @property
    def key(self) -> str:
        """Identity of the pixels, part of every cache key that depends on the image."""

    @property
    def name(self) -> str:
        """What to call the image in an error message: a path or a description."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what `load` gives, without decoding where that can be known; raises as `load` does."""

    def load(self) -> Image:
        """Decode to RGB; raises `UserError` naming the file where that fails."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; the system's, if there is one, comes first."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[int, ...] = ()
    """Where its images stand, in order: before this many characters of `text`."""

    def pieces(self) -> Iterator[str | None]:
        """The text in pieces, with None for each image; what follows the last image is there even if it is empty."""
        cuts = [0, *self.images, len(self.text)]
        for start, end in pairwise(cuts[:-1]):
            if start < end:
                yield self.text[start:end]
            yield None
        yield self.text[cuts[-2] :]

    def message(self) -> dict[str, Any]:
        """The turn as a chat-template message with typed content parts."""
        parts = [{"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in self.pieces()]
        return {"role": self.role, "content": parts}


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its responses.

    `turns` alternate user and assistant and end with the user, or with the beginning of the answer; a turn of the
    system may stand before them. Where a benchmark leaves answers to the model, turns of the user follow one another.
    `responses` maps a name (`chosen`, `rejected`, `blind`) to its text, without speaker prefix. `tags` group examples
    in tables.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...]
    """One for each place in the turns, in their order."""
    responses: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()
    """Names of responses that were cut off at a length limit, and so do not end with an end-of-sequence token."""

    def blinded(self) -> Example:
        """The same prompt with its images and their placeholders removed (arXiv 2503.14189, the input x_b)."""
        return replace(self, images=(), turns=tuple(replace(turn, images=()) for turn in self.turns))

    def with_responses(self, **responses: str) -> Example:
        """A copy with these responses added or replaced."""
        return replace(self, responses={**self.responses, **responses})

    def messages(self) -> list[dict[str, Any]]:
        """The prompt as chat-template messages."""
        return [turn.message() for turn in self.turns]

    def contents(self) -> list[tuple[Turn, list[str | ImageSource]]]:
        """Each turn with its text in pieces and its images between them."""
        images = iter(self.images)
        return [(turn, [next(images) if piece is None else piece for piece in turn.pieces()]) for turn in self.turns]

    def prompt_key(self) -> str:
        """Hash of everything a model is shown: turns, places of images and the identity of each image."""
        before = {(): False, (0,): True}  # as these were written when there could be one image only
        shown = [[turn.role, turn.text, before.get(turn.images, turn.images)] for turn in self.turns]
        keys = [image.key for image in self.images]
        return digest([shown, keys if len(keys) > 1 else next(iter(keys), None)])


def digest(value: Any) -> str:
    """Hash of a JSON-like value, stable over processes and machines; 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sources(examples: Sequence[Example]) -> dict[str, int]:
    """How many examples each data set of a mixture gave; empty for a single one."""
    return dict(Counter(example.tags["source"] for example in examples if "source" in example.tags))


class Fingerprint:
    """Hash of a data set, one example after the other: ids, prompts, images and responses, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._before = "["

    def add(self, example: Example) -> None:
        """The next example."""
        parts = [example.id, example.prompt_key(), sorted(example.responses.items()), sorted(example.cut)]
        self._hash.update(f"{self._before}{json.dumps(parts)}".encode())
        self._before = ", "

    def value(self) -> str:
        """32 hexadecimal digits, as `digest` has them."""
        end = "[]" if self._before == "[" else "]"
        whole = self._hash.copy()
        whole.update(end.encode())
        return whole.hexdigest()[:32]


def fingerprint(examples: Iterable[Example]) -> str:
    """Hash of a data set that is there as a whole."""
    total = Fingerprint()
    for example in examples:
        total.add(example)
    return total.value()
