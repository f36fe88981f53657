"""Decoding of images that strangers made: every format to RGB, within limits, each failure in one line."""

import base64
import hashlib
import io
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmsafe.core.errors import UserError
from mmsafe.data.example import ImageSource

MAX_RATIO = 200
"""Of an image's sides: scaled by the shorter one, as `image_aspect_ratio=crop` does, it grows by that much."""
ImageFormat = Literal["jpeg", "png"]
JPEG_QUALITY = 90

SURE = ("JPEG", "MPO", "WEBP")
"""Formats whose header tells an image's size, and holds what turns it upright."""
PNG_NOTES = (b"eXIf", b"Raw profile type", b"adobe.xmp")
"""Begin what may turn a PNG upright; they may stand behind the pixels."""
HEAD = 512
"""Bytes at the beginning of a file that tell what it is."""
AGAIN = "get the image again"
CONVERT = "convert it to PNG or JPEG"
FORMATS = {
    r"\s*$": f"an empty file; {AGAIN}",
    r"version https://git-lfs": "a Git LFS pointer to it; run `git lfs pull` in that repository, or download the file",
    r".{4}ftyp.{0,40}avi[fs]": f"AVIF, damaged or of a kind that is not supported; get it again, or {CONVERT}",
    r".{4}ftyp(hei|hev|mif1|msf1)": f"HEIC, as phones write photographs; {CONVERT}",
    r".{4}ftyp": "a video; save one picture of it as PNG or JPEG",
    r"\xff\x0a|\0\0\0\x0cJXL ": f"JPEG XL; {CONVERT}",
    r"%!PS|\xc5\xd0\xd3\xc6": "EPS, a program that Ghostscript would have to run; save the picture in it as PNG",
    r"%PDF": "PDF; save the picture in it as PNG or JPEG",
    r"PK\x03\x04|\x1f\x8b|7z\xbc|Rar!": "an archive; unpack it",
    r"(\xef\xbb\xbf)?(\s|<[?!][^>]*>)*<svg": f"SVG, a drawing without pixels; {CONVERT}",
    r"(\xef\xbb\xbf)?\s*<[a-z?!]": f"a web page, or what else a server said in place of it; {AGAIN}",
    r"data:image|[a-z0-9+/\r\n]{64,}=*\s*$": "base64 text; decode it",
    r"[\t\n\r -~]+$": f"text, such as the error message of a server; {AGAIN}",
}
"""How what is often saved under an image's name begins, and what it is."""
KNOWN = [(re.compile(begin.encode("latin-1"), re.DOTALL | re.IGNORECASE), what) for begin, what in FORMATS.items()]
LONGEST_NAME = 255
POINTER = b"version https://git-lfs"
BASE64 = re.compile(r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=[^0-9+/]*[0-9+/])[A-Za-z0-9+/\r\n]+=*\s*")
BYTES = "write it into a file and name that, or its bytes into a parquet column"


class RefusedImageError(ValueError):
    """What is wrong with an image that could be decoded, and what to do."""


class EncodedImage(ABC):
    """An encoded image, which is decoded when it is needed."""

    name: str
    """What messages call the image."""

    @abstractmethod
    def data(self) -> bytes:
        """The encoded file; raises `UserError` naming the image where it cannot be read."""

    @cached_property
    def key(self) -> str:
        """SHA-256 of the bytes, computed at the first use."""
        return hashlib.sha256(self.data()).hexdigest()

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of what `load` gives, by the header where that tells; raises `UserError` as it does."""
        with self._decoded() as image:
            if image.format == "PNG" and not any(mark in self.data() for mark in PNG_NOTES):
                return image.height, image.width
            if image.format in SURE:
                turned = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
                return (image.width, image.height) if turned else (image.height, image.width)
        return self.load().size[::-1]

    def load(self) -> Image.Image:
        """Decode every pixel to RGB, upright; raises `UserError` naming the image where that fails."""
        with self._decoded() as image:
            return to_rgb(ImageOps.exif_transpose(image))

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""
        if decode:
            self.load()
        else:
            with self._decoded():
                pass

    def error(self, what: str) -> UserError:
        """The error that names the image and what is wrong with it, in one line."""
        return UserError(f"{self.name}: {what}")

    def _file(self) -> Path | io.BytesIO:
        """What Pillow opens."""
        return io.BytesIO(self.data())

    @contextmanager
    def _decoded(self) -> Iterator[Image.Image]:
        """Open the image; whatever goes wrong here or inside the block becomes a `UserError`."""
        # Registers all formats. Image.open does so when needed, but two threads that need it at once can both miss one.
        Image.init()
        file = self._file()
        try:
            with Image.open(file, formats=[name for name in Image.OPEN if name != "EPS"]) as image:  # EPS is a program
                _refuse_size(image)
                if image.mode == "F":
                    raise RefusedImageError("has floating-point pixels of unknown range; convert it to 8 bits")
                yield image
                _refuse_size(image)  # once more: the header of an icon may tell another size than the image in it has
        except RefusedImageError as error:
            raise self.error(str(error)) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise self.error(f"the image is too large to decode: {error}") from error
        except Exception as error:  # on a damaged file Pillow's decoders raise almost anything
            head = _head(file)
            if what := next((what for begin, what in KNOWN if begin.match(head)), None):
                raise self.error(f"is not an image that can be read here, but {what}") from error
            if isinstance(error, UnidentifiedImageError):
                raise self.error("is not an image, or only the beginning of one; get it again") from error
            cause = f"{type(error).__name__}: {error}"
            raise self.error(f"the image cannot be decoded ({cause}); get it again") from error


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
        raise RefusedImageError(f"the image is too large to decode: {size}; scale it to at most {most} a side")
    if longer > MAX_RATIO * shorter:
        raise RefusedImageError(f"the image is too long and thin: {size}, more than {MAX_RATIO} to 1; crop it")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB; transparency is dropped, as LLaVA's own code does it."""
    if image.mode.startswith("I"):  # 16-bit grey is scaled; Pillow's own conversion clips at 255
        image = image.convert("I")
        extrema = image.getextrema()
        if min(extrema) < 0 or max(extrema) > 65535:  # type: ignore[operator]  # one band, hence two numbers
            raise RefusedImageError(f"has pixel values {extrema} beyond 16 bits; convert it to 8 bits a channel")
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without the warning that the direct way gives
    return image.convert("RGB")


def image_part(image: ImageSource, image_format: ImageFormat, max_side: int | None = None) -> dict[str, Any]:
    """The image as a content part for a chat endpoint, encoded anew: nothing of the file but its pixels is sent.

    Its longer side is at most `max_side` pixels; None keeps its size.
    """
    pixels = image.load()
    if max_side is not None:
        pixels.thumbnail((max_side, max_side))
    encoded = io.BytesIO()
    pixels.save(encoded, image_format, quality=JPEG_QUALITY)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/{image_format};base64,{data}"}}


def user_message(
    text: str, images: Sequence[ImageSource], image_format: ImageFormat, max_side: int | None
) -> dict[str, Any]:
    """What a chat endpoint is sent as a turn of the user, its images first."""
    parts = [image_part(image, image_format, max_side) for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def refuse_pointer(file: Path) -> None:
    """Raise `UserError` if it is what Git LFS puts in place of any large file."""
    if file.is_file():
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(f"{file}: is a Git LFS pointer, not the file itself: run `git lfs pull` beside it")


def no_name(text: str) -> str | None:
    """What stands in place of an image's name, and what to do about it; None for what can be a name."""
    if text.startswith("data:image/"):
        return f"is the image itself, as a data URI; {BYTES}"
    if len(text) > LONGEST_NAME and BASE64.fullmatch(text):
        return f"is the image itself, as base64 text; {BYTES}"
    return None
