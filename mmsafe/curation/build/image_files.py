"""Image files: fetched once per address, looked at before they count, copied beside the set under published names."""

import asyncio
import filecmp
import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from mmsafe.core.cache import cache_dir, note, noted
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.curation.build.polite_client import PoliteClient, RefusedError
from mmsafe.data.example import digest
from mmsafe.data.images import FileImage

LONGEST_NAME = 200
"""Bytes; file systems take 255, and tools add to names."""


class ImageFiles:
    """What was fetched lies in the user's cache, a file for each address; `folder` gets copies of what is used."""

    def __init__(self, client: PoliteClient, folder: Path, max_bytes: int) -> None:
        self._client, self._folder, self._max_bytes = client, folder, max_bytes
        self._cache = cache_dir("entity_images") / "files"
        self._fetching: dict[str, asyncio.Task[Path]] = {}

    async def fetched(self, url: str) -> Path:
        """The image at `url` as a file; one that is wanted several times at once is fetched once.

        Raises `UnreachableError`, `RefusedError` if there is none or what is there is not an image, or `UserError` if
        the file is not as it was fetched.
        """
        path = self._cache / digest(url)
        if path.exists():
            noted(path)
            return path
        if url not in self._fetching:
            self._fetching[url] = asyncio.create_task(self._fetch(url, path))
        return await self._fetching[url]

    def place(self, url: str, file: Path) -> str:
        """Copy `file` into the folder; returns its name there, percent-encoded as in the address.

        Another image that has this name already keeps it.
        """
        name = published_name(url)
        for form in (name, f"{digest(url)[:8]}-{name}"):
            path = self._folder / form
            if not path.exists():
                write_atomically(path, file.read_bytes())
            elif not filecmp.cmp(path, file, shallow=False):
                continue
            return form
        raise UserError(f"{path}: is another image than the one that was put there; delete it")

    async def _fetch(self, url: str, path: Path) -> Path:
        content = await self._client.get(url, lambda reply, content: content, self._max_bytes)
        await asyncio.to_thread(self._keep, content, path)
        return path

    def _keep(self, content: bytes, path: Path) -> None:
        arrived = path.with_suffix(f".{os.getpid()}")  # of this process: others may fetch the same
        write_atomically(arrived, content)
        try:
            FileImage(arrived).check(decode=True)
        except UserError as error:
            arrived.unlink()
            raise RefusedError("not an image that can be decoded") from error
        note(arrived, path)
        arrived.rename(path)


def published_name(url: str) -> str:
    """What MMSafe-PO calls the image at `url`: the last part of its path, percent-encoded.

    Of an address such as `images?q=tbn:…` it is what is asked for.
    """
    parts = urlsplit(url)
    name = quote(unquote(parts.path.rpartition("/")[2]), safe=":") if not parts.query else ""
    name = name or quote(unquote(parts.query.rpartition("=")[2]), safe=":")
    usable = name.strip(".") and len(name) <= LONGEST_NAME
    return name if usable else digest(url)
