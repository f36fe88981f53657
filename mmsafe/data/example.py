"""What every reader returns: one prompt, its image, its responses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """One turn of a conversation; `image` says that the image stands at its start."""

    role: Literal["user", "assistant"]
    text: str
    image: bool = False

    def message(self) -> dict[str, Any]:
        """The turn as a chat-template message with typed content parts."""
        parts: list[dict[str, str]] = [{"type": "image"}] if self.image else []
        return {"role": self.role, "content": [*parts, {"type": "text", "text": self.text}]}


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its responses.

    `turns` alternate user and assistant and end with the user; at most one turn carries the image. `responses` maps a
    name (`chosen`, `rejected`, `blind`) to its text, without speaker prefix. `tags` group examples in tables.
    """

    id: str
    turns: tuple[Turn, ...]
    image: ImageSource | None
    responses: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()
    """Names of responses that were cut off at a length limit, and so do not end with an end-of-sequence token."""

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The images of the prompt, in the order of their places."""
        return () if self.image is None else (self.image,)

    def blinded(self) -> Example:
        """The same prompt with the image and its placeholder removed (arXiv 2503.14189, the input x_b)."""
        return replace(self, image=None, turns=tuple(replace(turn, image=False) for turn in self.turns))

    def with_responses(self, **responses: str) -> Example:
        """A copy with these responses added or replaced."""
        return replace(self, responses={**self.responses, **responses})

    def messages(self) -> list[dict[str, Any]]:
        """The prompt as chat-template messages."""
        return [turn.message() for turn in self.turns]

    def prompt_key(self) -> str:
        """Hash of everything a model is shown: turns, image placeholders and the image's identity."""
        shown = [[turn.role, turn.text, turn.image] for turn in self.turns]
        return digest([shown, self.image.key if self.image else None])


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
    found = Fingerprint()
    for example in examples:
        found.add(example)
    return found.value()
