"""Which examples have an image that cannot be shown to a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example
from mmsafe.data.images import Checkable, check_images


def failing(examples: Iterable[Example], decode: bool) -> dict[str, UserError]:
    """Why the image of an example cannot be read, by the example's id; each image is looked at once.

    `decode` finds truncated files, too; images that are no files are well.
    """
    from mmsafe.core.progress import progress

    shown: dict[str, Any] = {example.id: example.image for example in examples}
    shown = {name: image for name, image in shown.items() if isinstance(image, Checkable)}
    sources = dict.fromkeys(shown.values())
    with progress("checking images", len(sources)) as advance:
        errors = check_images(sources, decode, lambda *_: advance(1))
    return {name: errors[image] for name, image in shown.items() if image in errors}
