"""Examples as rows in TRL's conversational format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import PAIR
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.data.images import FileImage
from mmsafe.data.tables import StoredImage
from mmsafe.objectives.base import GENERATED

if TYPE_CHECKING:
    from datasets import Features

Images = Literal["embedded", "referenced"]
NO_TAGS = ("turns",)
"""The member of `tags` where no example has a tag: tables have no struct without members."""


@dataclass(frozen=True)
class Columns:
    """What all rows have, in every split: TRL's columns, `id`, generated responses and `tags`.

    Without images, the words of a turn are a text, which chat templates of text models take; beside images they are
    parts, as those of vision models want it.
    """

    responses: frozenset[str]
    tags: tuple[str, ...]
    with_images: bool

    @property
    def answers(self) -> dict[str, str]:
        """TRL's columns, and the response that each holds."""
        return {"chosen": "chosen", "rejected": "rejected"} if self.responses >= PAIR else {"completion": "chosen"}

    @property
    def generated(self) -> list[str]:
        """Columns of responses that models gave."""
        return [name for name in GENERATED if name in self.responses]

    def features(self) -> Features:
        """The columns as `datasets` knows them."""
        from datasets import Features, Image, List, Value

        text = Value("string")
        messages = List({"role": text, "content": List({"type": text, "text": text}) if self.with_images else text})
        return Features(
            {
                "id": text,
                **({"images": List(Image())} if self.with_images else {}),
                **dict.fromkeys(("prompt", *self.answers), messages),
                **dict.fromkeys(self.generated, text),
                "tags": dict.fromkeys(self.tags or NO_TAGS, text),
            }
        )

    def row(self, example: Example, images: Images) -> dict[str, Any]:
        """A row as Arrow stores it."""
        responses, tags = example.responses, example.tags
        return {
            "id": example.id,
            **({"images": [stored(image, images) for image in example.images]} if self.with_images else {}),
            "prompt": [self._message(turn) for turn in example.turns],
            **{
                column: [self._message(Turn("assistant", responses[name]))] if name in responses else None
                for column, name in self.answers.items()
            },
            **{name: responses.get(name) for name in self.generated},
            "tags": {name: tags.get(name) for name in self.tags or NO_TAGS},
        }

    def _message(self, turn: Turn) -> dict[str, Any]:
        if not self.with_images:
            return {"role": turn.role, "content": turn.text}
        return {"role": turn.role, "content": [{"text": None, **part} for part in turn.message()["content"]]}


class Survey:
    """What is known of examples, one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self.with_images = False
        self.answered: set[frozenset[str]] = set()
        self._responses: set[str] = set()
        self._tags: set[str] = set()

    def add(self, example: Example, images: Images) -> None:
        """The next example; raises `UserError` if its image is to be referenced and is no file."""
        self.count += 1
        self.with_images |= bool(example.images)
        self.answered.add(PAIR.intersection(example.responses))
        self._responses |= example.responses.keys()
        self._tags |= example.tags.keys()
        inside = (image for image in example.images if not isinstance(image, FileImage))
        if images == "referenced" and (image := next(inside, None)):
            raise UserError(f"images=referenced: {image.name}: is in no file of its own; choose images=embedded")

    def columns(self, brings: Iterable[str]) -> Columns:
        """The columns of a set in which every example to train on `brings` these responses."""
        kinds = {kind for kind in self.answered if kind}
        if len(kinds) > 1:
            raise UserError(
                "data: some examples have a rejected response and others only an answer; TRL has no format for both: "
                "prepare them one by one, and mix them by data=mix"
            )
        responses = frozenset(self._responses | (set() if kinds else set(brings)))
        return Columns(responses, tuple(sorted(self._tags)), self.with_images)


def stored(image: ImageSource, images: Images) -> dict[str, Any]:
    """An image as `datasets` stores it: the bytes of its file as they are, or the absolute path of that.

    Images that are drawn become PNG.
    """
    if isinstance(image, FileImage):
        if images == "referenced":
            return {"bytes": None, "path": os.path.abspath(image.path)}
        return {"bytes": image.data(), "path": image.path.name}
    if isinstance(image, StoredImage):
        return {"bytes": image.data(), "path": None}
    encoded = BytesIO()
    image.load().save(encoded, "PNG")
    return {"bytes": encoded.getvalue(), "path": None}
