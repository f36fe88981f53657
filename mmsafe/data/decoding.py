"""Decoding of images that strangers made: every format to RGB, within limits, each failure in one line."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mmsafe.core.errors import UserError
from mmsafe.data.image_formats import HEAD, what_it_is

MAX_RATIO = 200
"""Of an image's sides: scaled by the shorter one, as `image_aspect_ratio=crop` does, it grows by that much."""


class UnfitImageError(ValueError):
    """What is wrong with an image that could be decoded, and what to do."""


@contextmanager
def decoded(path: Path | str, file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open the image in `file`; whatever goes wrong here or inside the block becomes a `UserError` naming `path`."""
    # Registers all formats. Image.open does so when needed, but two threads that need it at once can both miss one.
    Image.init()
    try:
        with Image.open(file) as image:
            _refuse_size(image)
            if image.format == "EPS":
                raise UnfitImageError("is an EPS file, a program that Ghostscript would have to run; convert it to PNG")
            if image.mode == "F":
                raise UnfitImageError("has floating-point pixels of unknown range; convert it to 8 bits a channel")
            yield image
            _refuse_size(image)  # once more: the header of an icon may tell another size than the image in it has
    except UnfitImageError as error:
        raise failed(path, str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise failed(path, f"the image is too large to decode: {error}") from error
    except Exception as error:  # on a damaged file Pillow's decoders raise almost anything
        if what := what_it_is(_head(file)):
            raise failed(path, f"is not an image that can be read here, but {what}") from error
        if isinstance(error, UnidentifiedImageError):
            raise failed(path, "is not an image, or only the beginning of one; get it again") from error
        raise failed(path, f"the image cannot be decoded ({type(error).__name__}: {error}); get it again") from error


def _head(file: Path | io.BytesIO) -> bytes:
    """Its first bytes; none, where they cannot be read."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:HEAD]
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD)
    except OSError:
        return b"\0"


def _refuse_size(image: Image.Image) -> None:
    """Refuse an image by what becomes of it: models see it padded to a square, or scaled by its shorter side."""
    longer, shorter = max(image.size), min(image.size)
    size = f"{image.width} x {image.height} pixels"
    if Image.MAX_IMAGE_PIXELS and longer**2 > Image.MAX_IMAGE_PIXELS:
        most = math.isqrt(Image.MAX_IMAGE_PIXELS)
        raise UnfitImageError(f"the image is too large to decode: {size}; scale it to at most {most} a side")
    if longer > MAX_RATIO * shorter:
        raise UnfitImageError(f"the image is too long and thin: {size}, more than {MAX_RATIO} to 1; crop it")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB; transparency is dropped, as LLaVA's own code does it."""
    if image.mode.startswith("I"):
        return _to_8_bit(image.convert("I")).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without the warning that the direct way gives
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, 0 to 65535, to 8-bit grey; Pillow's own conversion clips at 255."""
    extrema = image.getextrema()
    if min(extrema) < 0 or max(extrema) > 65535:  # type: ignore[operator]  # one band, hence two numbers
        raise UnfitImageError(f"has pixel values {extrema} beyond 16 bits; convert it to 8 bits a channel")
    return image.point(lambda value: value * (1 / 257) + 0.5).convert("L")


def failed(path: Path | str, what: str) -> UserError:
    """The error that an image is called by what is wrong with it."""
    return UserError(" ".join(f"{path}: {what}".splitlines()))
