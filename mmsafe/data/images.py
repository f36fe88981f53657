"""Image files: found under their percent-encoded names, checked before a run, decoded to RGB when needed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote

from PIL import Image, ImageOps, UnidentifiedImageError

from mmsafe.errors import UserError

# What tools leave unescaped when they percent-encode a name: nothing (Python), brackets (browsers), colons (wikis).
UNESCAPED = ("", "()!*'", ":", ":()!*',")
THREADS = 8
MAX_BYTES = 2**28
"""Of an image file; a photograph has less than a tenth of it."""


class Checkable(Protocol):
    """An image that can be looked at before it is needed."""

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""


Source = TypeVar("Source", bound=Checkable)


@dataclass(frozen=True)
class FileImage:
    """An image in a file of any format that Pillow reads, whatever the file is called."""

    path: Path

    @cached_property
    def key(self) -> str:
        """SHA-256 of the file's bytes, computed at the first use."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _failed(self.path, f"cannot be read: {error.strerror}") from error

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def data(self) -> bytes:
        """The encoded file; raises `UserError` naming it where it cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise _failed(self.path, f"cannot be read: {error.strerror}") from error

    def load(self) -> Image.Image:
        """Decode every pixel to RGB, upright; raises `UserError` naming the file where that fails."""
        with _opened(self.path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""
        if decode:
            self.load()
        else:
            with _opened(self.path):
                pass


@dataclass(frozen=True)
class EncodedImage:
    """An image that stands in a table: the bytes of an image file, and what to call it."""

    data: bytes = field(repr=False)
    name: str

    @cached_property
    def key(self) -> str:
        """SHA-256 of the bytes, as that of a file which holds them."""
        return hashlib.sha256(self.data).hexdigest()

    def load(self) -> Image.Image:
        """Decode every pixel to RGB, upright; raises `UserError` naming the image where that fails."""
        with _decoded(self.name, io.BytesIO(self.data)) as image:
            return _to_rgb(ImageOps.exif_transpose(image))

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""
        if decode:
            self.load()
        else:
            with _decoded(self.name, io.BytesIO(self.data)):
                pass


MISSING = "get the image, or set data.image_dir to the folder that has it"


def find_image(image_dir: Path, name: str, advice: str = MISSING) -> Path:
    """The file in `image_dir` that a data set calls `name`: as written, percent-decoded or percent-encoded.

    Raises `UserError` if there is none, and for a name that leads out of `image_dir`: an absolute path, `..`, or a
    symbolic link. A data file is downloaded, so its names must not reach any other file of this machine.
    """
    decoded = unquote(name)
    try:
        encoded = [quote(form, safe=safe) for form in (decoded, name) for safe in UNESCAPED]
        for form in dict.fromkeys((name, decoded, *encoded)):
            path = image_dir / form
            if os.path.isabs(form) or not _is_inside(path, image_dir):
                raise _escape(name, path, image_dir)
            if os.path.isfile(path):  # unlike Path.is_file, False rather than an error for an over-long name
                return path
    except ValueError as error:  # a null byte or half a surrogate pair
        raise UserError(f"image {name!r} is no possible file name: {error}") from error
    raise UserError(f"no image {name!r} in {image_dir}: {advice}")


def check_images(
    sources: Iterable[Source], decode: bool, progress: Callable[[int, int], None] | None = None
) -> dict[Source, UserError]:
    """Check each distinct image once, in threads; returns those that fail, each with its error.

    `decode` reads every pixel and so finds truncated files; otherwise only headers are read. `progress` is called with
    the number of images done and the number of all.
    """
    distinct = list(dict.fromkeys(sources))

    def problem(source: Source) -> UserError | None:
        try:
            source.check(decode)
        except UserError as error:
            return error
        return None

    errors: dict[Source, UserError] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (source, error) in enumerate(zip(distinct, pool.map(problem, distinct), strict=True), start=1):
            if error is not None:
                errors[source] = error
            if progress is not None:
                progress(done, len(distinct))
    return errors


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever goes wrong here or inside the block becomes a `UserError` naming the file."""
    if not os.path.exists(path):  # unlike Path.exists, no error in a folder that may not be read
        raise _failed(path, "no such image file")
    if not os.path.isfile(path):
        raise _failed(path, "is not a file")
    if (size := os.path.getsize(path)) > MAX_BYTES:
        raise _failed(path, f"has {size >> 20} MiB, too many for an image; make it smaller")
    with _decoded(path, path) as image:
        yield image


@contextmanager
def _decoded(path: Path | str, file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open the image in `file`; whatever goes wrong here or inside the block becomes a `UserError` naming `path`."""
    # Registers all formats. Image.open does so when needed, but two threads that need it at once can both miss one.
    Image.init()
    try:
        with Image.open(file) as image:
            _refuse_dangerous(path, image)
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _failed(path, f"the image is too large to decode: {error}") from error
    except UnidentifiedImageError as error:
        raise _failed(path, "is not an image; was a web page or an error message saved under its name?") from error
    except Exception as error:  # on a damaged file Pillow's decoders raise almost anything
        raise _failed(path, f"the image cannot be decoded ({type(error).__name__}: {error}); get it again") from error


def _refuse_dangerous(path: Path | str, image: Image.Image) -> None:
    """Refuse what should not be decoded from a stranger's file."""
    # Between this limit and twice this limit Pillow only warns.
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _failed(path, f"the image is too large to decode: {image.width} x {image.height} pixels")
    if image.format == "EPS":
        raise _failed(path, "is an EPS file, a program that Ghostscript would have to run; convert it to PNG")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB; transparency is dropped, as LLaVA's own code does it."""
    if image.mode.startswith("I"):
        return _to_8_bit(image.convert("I")).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without the warning that the direct way gives
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, 0 to 65535, to 8-bit grey; Pillow's own conversion clips at 255."""
    extrema = image.getextrema()
    if min(extrema) < 0 or max(extrema) > 65535:  # type: ignore[operator]  # one band, hence two numbers
        raise ValueError(f"pixel values {extrema} are beyond 16 bits")
    return image.point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` stays in `folder` after `..` and symbolic links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _escape(name: str, path: Path, image_dir: Path) -> UserError:
    """Why `path` is refused: by its own words, or only because of a link."""
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(image_dir)):
        return UserError(
            f"image {name!r} is a symbolic link, or behind one, that leads out of the image folder {image_dir}, as in "
            "a Hugging Face cache: copy the files into a folder, for instance with `hf download --local-dir FOLDER`"
        )
    return UserError(f"image {name!r} leads out of the image folder {image_dir}: give it a name inside it")


def _failed(path: Path | str, what: str) -> UserError:
    return UserError(" ".join(f"{path}: {what}".splitlines()))
