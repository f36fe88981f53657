"""The images that rows name: files of one folder, or bytes in the row itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmsafe.data.images import FileImage, find_image
from mmsafe.data.records import RowError, checked_text
from mmsafe.data.tables import StoredImage
from mmsafe.errors import UserError

RowImage = FileImage | StoredImage


class RowImages:
    """Finds images; one that is found again is the same object, so that it is hashed and decoded once."""

    def __init__(self, folder: Path, known: dict[Path | str, RowImage]) -> None:
        self.folder = folder
        self._known = known

    def find(self, value: Any, field: str = "image") -> tuple[RowImage, str]:
        """The image in a field, and what groups rows of the same image; raises `RowError` if there is none.

        Files are found in `folder` only, whatever their names say. An object is one as `datasets` exports it, with the
        `path` of a file; the one image of a list is that image.
        """
        if isinstance(value, list) and any(isinstance(one, StoredImage | dict) for one in value):
            if len(value) > 1:
                raise RowError("not one image", f"'{field}' holds {len(value)} images, where one is possible")
            (value,) = value
        if isinstance(value, dict) and value.get("bytes") is None and "path" in value:
            value = value["path"]
        try:
            if isinstance(value, StoredImage) and value.path is None:
                return self._known.setdefault(value.key, value), value.key
            name = checked_text(self._below(value.path) if isinstance(value, StoredImage) else value, field)
            path = find_image(self.folder, name)
        except UserError as error:
            raise RowError("missing image", str(error)) from error
        return self._known.setdefault(path, FileImage(path)), unquote(name)

    def _below(self, path: str | None) -> str | None:
        """Tables name files by absolute paths, as `datasets` wants it: one that begins with the folder is its rest."""
        folder = os.path.abspath(self.folder)
        return os.path.relpath(path, folder) if path is not None and Path(path).is_relative_to(folder) else path
