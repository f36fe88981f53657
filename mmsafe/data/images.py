"""Image files: found under their percent-encoded names, checked before a run, decoded to RGB when needed."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from mmsafe.core.errors import UserError
from mmsafe.data.decoding import EncodedImage, no_name
from mmsafe.data.example import Example

# What tools leave unescaped when they percent-encode a name: nothing (Python), brackets (browsers), colons (wikis).
UNESCAPED = ("", "()!*'", ":", ":()!*',")
THREADS = 8
MAX_BYTES = 2**28
"""Of an image file; a photograph has less than a tenth of it."""
LONGEST = 150
"""Characters of a name that a message quotes."""
MISSING = "get the image, or set data.image_dir to the folder that has it"
Source = TypeVar("Source", bound=EncodedImage)
ImageT = TypeVar("ImageT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class FileImage(EncodedImage):
    """An image in a file of any format that Pillow reads, whatever the file is called."""

    path: Path

    @property
    def name(self) -> str:  # type: ignore[override]  # the base has an attribute
        return str(self.path)

    def data(self) -> bytes:
        try:
            return self._file().read_bytes()
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from error

    def _file(self) -> Path:
        if not os.path.exists(self.path):  # unlike Path.exists, no error in a folder that may not be read
            raise self.error("no such image file")
        if not os.path.isfile(self.path):
            raise self.error("is not a file")
        if (size := os.path.getsize(self.path)) > MAX_BYTES:
            raise self.error(f"has {size >> 20} MiB, too many for an image; make it smaller")
        return self.path


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
                    below = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
                    return folder / below if os.path.isabs(form) else path
    except ValueError as error:  # a null byte or half a surrogate pair
        raise UserError(f"image {name!r:.{LONGEST}} is no possible file name: {error}") from error
    if name.lower().startswith(("http://", "https://")):
        advice = "it is a web address, of which nothing is fetched; download the image, and name its file"
    raise escape or UserError(f"no image {name!r:.{LONGEST}} in {' or '.join(map(str, folders))}: {advice}")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` stays in `folder` after `..` and symbolic links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _escape(name: str, path: Path, image_dir: Path) -> UserError:
    """Why `path` is refused: by its own words, or only because of a link."""
    what = f"image {name!r:.{LONGEST}}"
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(image_dir)):
        return UserError(
            f"{what} is a symbolic link, or behind one, that leads out of the image folder {image_dir}, as in a "
            "Hugging Face cache: copy the files into a folder, for instance with `hf download --local-dir FOLDER`"
        )
    return UserError(f"{what} leads out of the image folder {image_dir}: give it a name inside it")


def check_images(
    sources: Iterable[Source], decode: bool, advance: Callable[[int], object] = lambda count: None
) -> dict[Source, UserError]:
    """Check each distinct image once, in threads; returns those that fail, each with its error.

    `decode` reads every pixel and so finds truncated files; otherwise only headers are read. `advance` is called for
    every image that is done.
    """

    def problem(source: Source) -> UserError | None:
        try:
            source.check(decode)
        except UserError as error:
            return error
        return None

    problems = in_threads(dict.fromkeys(sources), problem, advance)
    return {source: error for source, error in problems.items() if error is not None}


def in_threads(
    images: Iterable[ImageT], work: Callable[[ImageT], ResultT], advance: Callable[[int], object]
) -> dict[ImageT, ResultT]:
    """What `work` makes of each image, of which at most `THREADS` are decoded at a time."""
    results, waiting = {}, list(images)
    with ThreadPoolExecutor(THREADS) as pool:
        for image, result in zip(waiting, pool.map(work, waiting), strict=True):
            results[image] = result
            advance(1)
    return results


def failing(examples: Iterable[Example], decode: bool) -> dict[str, UserError]:
    """Why an image of an example cannot be read, by the example's id; images that are drawn are well."""
    from mmsafe.core.progress import progress

    shown: list[tuple[str, Any]] = [
        (example.id, image) for example in examples for image in example.images if hasattr(image, "check")
    ]
    sources = dict.fromkeys(image for _, image in shown)
    with progress("checking images", len(sources)) as advance:
        errors = check_images(sources, decode, advance)
    return {name: errors[image] for name, image in reversed(shown) if image in errors}
