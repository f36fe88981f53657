"""The distinct images of a data set: which are the same bytes, and which look alike."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from mmsafe.core.errors import UserError
from mmsafe.core.progress import progress
from mmsafe.data.example import ImageSource
from mmsafe.data.images import in_threads

SIDE = 8
NEAR = 8
"""Bits of 128 in which images that look alike may differ: a new size or compression changes fewer."""
FLAT = 16
"""Grey levels of 256 that an image must span for its hash to say anything."""


class Look(NamedTuple):
    """What is kept of a decoded image."""

    width: int
    height: int
    """Of the upright image, in pixels."""
    difference_hash: bytes | None
    """None for an image of hardly more than one colour, whose hash would be that of every other such image."""


def difference_hash(image: Image) -> bytes | None:
    """128 bits: whether a 9 × 9 thumbnail grows brighter from each pixel to its right, and to the one below.

    The "dHash" of perceptual hashing, in both directions. None where the thumbnail is flat.
    """
    thumbnail = image.convert("L").resize((SIDE + 1, SIDE + 1), resample=3)  # bicubic, over the whole area
    grey = np.asarray(thumbnail, dtype=np.int16)
    if np.ptp(grey) < FLAT:
        return None
    rises = [np.diff(grey, axis=1)[:SIDE] > 0, np.diff(grey, axis=0)[:, :SIDE] > 0]
    return np.packbits(np.stack(rises)).tobytes()


def keys_of(images: Iterable[ImageSource]) -> dict[ImageSource, str]:
    """The key of each image, read once for each distinct source."""
    distinct = dict.fromkeys(images)
    with progress("hashing images", len(distinct)) as advance:
        return in_threads(distinct, lambda image: image.key, advance)


def looks_of(images: Mapping[str, ImageSource]) -> dict[str, Look | None]:
    """What each image looks like, by its key; None where it cannot be decoded."""
    with progress("decoding images", len(images)) as advance:
        looks = in_threads(images.values(), _look, advance)
    return {key: looks[image] for key, image in images.items()}


def alike(images: Mapping[str, bytes], others: Mapping[str, bytes]) -> dict[str, str]:
    """For keys of `images` that `others` do not have: the one of those that looks most alike, if any is near."""
    known = np.frombuffer(b"".join(others.values()), dtype=np.uint64).reshape(-1, 2)
    names, matches = list(others), {}
    for key, look_hash in images.items():
        if key in others or not names:
            continue
        distances = np.bitwise_count(known ^ np.frombuffer(look_hash, dtype=np.uint64)).sum(1)
        nearest = int(distances.argmin())
        if distances[nearest] <= NEAR:
            matches[key] = names[nearest]
    return matches


def _look(image: ImageSource) -> Look | None:
    try:
        pixels = image.load()
    except UserError:
        return None
    return Look(*pixels.size, difference_hash(pixels))
