"""Token log-probs on disk, in files that are complete when they appear."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmsafe.data.example import digest
from mmsafe.errors import UserError


class LogProbStore:
    """A folder of safetensors files, each complete: flat log-probs, the length of each row, and the rows' keys."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.found: dict[str, Tensor] = {}
        self._keys: dict[Path, frozenset[str]] = {}

    def read(self, wanted: Iterable[str]) -> None:
        """Take up those rows of `wanted` that are on disk by now."""
        missing = set(wanted) - self.found.keys()
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._keys or missing & self._keys[path]:
                rows = dict(self._rows(path))
                self._keys[path] = frozenset(rows)
                self.found |= {key: rows[key] for key in missing & rows.keys()}

    def _rows(self, path: Path) -> Iterator[tuple[str, Tensor]]:
        try:
            with safe_open(path, "pt") as file:
                keys = json.loads(file.metadata()["keys"])
                lengths, flat = file.get_tensor("lengths").tolist(), file.get_tensor("log_probs")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); delete it, it is made again") from error
        yield from zip(keys, flat.split(lengths), strict=True)

    def name(self, keys: Iterable[str]) -> str:
        """The file to which the chunk of these rows belongs."""
        return f"{digest(sorted(keys))}.safetensors"

    def names(self) -> set[str]:
        """All files that are there by now."""
        return {path.name for path in self.folder.glob("*.safetensors")}

    def write(self, rows: Mapping[str, Tensor], name: str) -> None:
        """Write a chunk; it appears when it is complete."""
        path = self.folder / name
        unfinished = path.with_suffix(f".{uuid4().hex}")
        tensors = {
            "log_probs": torch.cat([*rows.values(), torch.empty(0)]),
            "lengths": torch.tensor([len(row) for row in rows.values()], dtype=torch.int64),
        }
        try:
            save_file(tensors, unfinished, {"keys": json.dumps(list(rows))})
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be written ({error}); free some space or set MMSAFE_CACHE") from error
        finally:
            unfinished.unlink(missing_ok=True)
