"""Reading what is trained on, before any model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import Loaded
from mmsafe.data.example import Example

log = logging.getLogger(__name__)


def counted(loaded: Loaded) -> Loaded:
    """The same examples; the log counts them, their images and what was dropped."""
    shown = sum(example.image is not None for example in loaded.examples)
    dropped = ", ".join(f"{count} {reason}" for reason, count in loaded.dropped.items()) or "none"
    log.info("%d examples, %d of them with an image; dropped: %s", len(loaded.examples), shown, dropped)
    return loaded


def need_images(examples: Sequence[Example], what: str) -> None:
    """Raise `UserError` if no example has an image, which `what` needs: it would compare a thing with itself."""
    if all(example.image is None for example in examples):
        told = f"none of the {len(examples)} training examples has an image, which {what} needs"
        raise UserError(f"data: {told}; choose other data, or an objective that reads words alone, as objective=dpo")
