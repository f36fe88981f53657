"""The images that rows name: files of one folder, or bytes in the row itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmsafe.core.errors import UserError
from mmsafe.data.images import FileImage, find_image
from mmsafe.data.records import checked_text
from mmsafe.data.row_error import RowError
from mmsafe.data.tables import StoredImage

RowImage = FileImage | StoredImage


class RowImages:
    """Finds images; one that is found again is the same object, so that it is hashed and decoded once."""

    def __init__(self, folders: Sequence[Path], known: dict[Path | str, RowImage]) -> None:
        self.folders = folders
        self._known = known

    def all(self, cell: Any) -> tuple[tuple[RowImage, ...], tuple[str, ...]]:
        """The images in a cell, one or a list, and by what rows of the same image are known; at least one.

        Files are found in `folders` only, whatever their names say. An object is one as `datasets` exports it, with the
        `path` of a file. Raises `RowError` for one that is not there.
        """
        if cell == []:
            raise RowError("missing image", "'image' is an empty list")
        images, groups = zip(*map(self._find, cell if isinstance(cell, list) else [cell]), strict=True)
        return images, groups

    def _find(self, value: Any) -> tuple[RowImage, str]:
        if isinstance(value, dict) and value.get("bytes") is None and "path" in value:
            value = value["path"]
        try:
            if isinstance(value, StoredImage) and value.path is None:
                return self._known.setdefault(value.key, value), value.key
            name = checked_text(value.path if isinstance(value, StoredImage) else value, "image")
            path = find_image(self.folders[0], name, also=self.folders[1:])
        except UserError as error:
            raise RowError("missing image", str(error)) from error
        folder = next(folder for folder in self.folders if path.is_relative_to(folder))
        return self._known.setdefault(path, FileImage(path)), unquote(str(path.relative_to(folder)))
