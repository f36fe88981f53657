"""Image files: found under their percent-encoded names, checked before a run, decoded to RGB when needed."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable
from urllib.parse import quote, unquote

from PIL import Image, ImageOps

from mmsafe.core.errors import UserError
from mmsafe.data.decoding import decoded, failed, to_rgb
from mmsafe.data.image_formats import WEB, is_address, no_name

# What tools leave unescaped when they percent-encode a name: nothing (Python), brackets (browsers), colons (wikis).
UNESCAPED = ("", "()!*'", ":", ":()!*',")
THREADS = 8
MAX_BYTES = 2**28
"""Of an image file; a photograph has less than a tenth of it."""


@runtime_checkable
class Checkable(Protocol):
    """An image that can be looked at before it is needed."""

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""


Source = TypeVar("Source", bound=Checkable)


class Decodable(ABC):
    """What can be decoded: a file, or its bytes."""

    @abstractmethod
    def _opened(self) -> AbstractContextManager[Image.Image]:
        """The image; whatever goes wrong here or inside the block becomes a `UserError` naming it."""

    def load(self) -> Image.Image:
        """Decode every pixel to RGB, upright; raises `UserError` naming the image where that fails."""
        with self._opened() as image:
            return to_rgb(ImageOps.exif_transpose(image))

    def check(self, decode: bool) -> None:
        """Raise `UserError` if the header cannot be read or, with `decode`, if any pixel cannot."""
        if decode:
            self.load()
        else:
            with self._opened():
                pass


@dataclass(frozen=True)
class FileImage(Decodable):
    """An image in a file of any format that Pillow reads, whatever the file is called."""

    path: Path

    @cached_property
    def key(self) -> str:
        """SHA-256 of the file's bytes, computed at the first use."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise failed(self.path, f"cannot be read: {error.strerror}") from error

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def data(self) -> bytes:
        """The encoded file; raises `UserError` naming it where it cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise failed(self.path, f"cannot be read: {error.strerror}") from error

    def _opened(self) -> AbstractContextManager[Image.Image]:
        if not os.path.exists(self.path):  # unlike Path.exists, no error in a folder that may not be read
            raise failed(self.path, "no such image file")
        if not os.path.isfile(self.path):
            raise failed(self.path, "is not a file")
        if (size := os.path.getsize(self.path)) > MAX_BYTES:
            raise failed(self.path, f"has {size >> 20} MiB, too many for an image; make it smaller")
        return decoded(self.path, self.path)


@dataclass(frozen=True)
class EncodedImage(Decodable):
    """An image that stands in a table: the bytes of an image file, and what to call it."""

    data: bytes = field(repr=False)
    name: str

    @cached_property
    def key(self) -> str:
        """SHA-256 of the bytes, as that of a file which holds them."""
        return hashlib.sha256(self.data).hexdigest()

    def _opened(self) -> AbstractContextManager[Image.Image]:
        return decoded(self.name, io.BytesIO(self.data))


LONGEST = 150
"""Characters of a name that a message quotes."""
MISSING = "get the image, or set data.image_dir to the folder that has it"


def find_image(image_dir: Path, name: str, advice: str = MISSING, also: Sequence[Path] = ()) -> Path:
    """The file in `image_dir` that a data set calls `name`: as written, percent-decoded or percent-encoded.

    A name may begin with that of the folder, and may be absolute. `also` are folders to look in after it. Raises
    `UserError` if there is none, and for a name that leads out of the folders by `..`, from the root or by a symbolic
    link. A data file is downloaded, so its names must not reach any other file of this machine.
    """
    if what := no_name(name):
        raise UserError(f"no image file: {name!r:.60} {what}")
    folders: list[Path] = list(dict.fromkeys((image_dir, *also)))
    plain = unquote(name)
    escape = None
    try:
        encoded = [quote(form, safe=safe) for form in (plain, name) for safe in UNESCAPED]
        forms: list[str] = list(dict.fromkeys((name, plain, *encoded)))
        for folder, form in product(folders, forms):
            if not _is_inside(folder / form, folder):
                escape = escape or _escape(name, folder / form, folder)
                continue
            for path in (folder / form, folder.parent / form):
                if os.path.isfile(path) and _is_inside(path, folder):  # isfile: no error for an over-long name
                    return folder / _relative(path, folder) if os.path.isabs(form) else path
    except ValueError as error:  # a null byte or half a surrogate pair
        raise UserError(f"image {name!r:.{LONGEST}} is no possible file name: {error}") from error
    raise escape or UserError(
        f"no image {name!r:.{LONGEST}} in {' or '.join(map(str, folders))}: {WEB if is_address(name) else advice}"
    )


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


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` stays in `folder` after `..` and symbolic links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _relative(path: Path, folder: Path) -> Path:
    """What `path` is called in `folder`, whatever links lead to either."""
    return Path(os.path.realpath(path)).relative_to(os.path.realpath(folder))


def _escape(name: str, path: Path, image_dir: Path) -> UserError:
    """Why `path` is refused: by its own words, or only because of a link."""
    what = f"image {name!r:.{LONGEST}}"
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(image_dir)):
        return UserError(
            f"{what} is a symbolic link, or behind one, that leads out of the image folder {image_dir}, as in a "
            "Hugging Face cache: copy the files into a folder, for instance with `hf download --local-dir FOLDER`"
        )
    return UserError(f"{what} leads out of the image folder {image_dir}: give it a name inside it")
