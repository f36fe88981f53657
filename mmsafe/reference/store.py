"""Token log-probs on disk, in files that are complete when they appear."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.core.tensor_file import load_file, save_file
from mmsafe.data.example import digest


class LogProbStore:
    """A folder of safetensors files, each complete: flat log-probs, the length of each row, and the rows' keys."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.kept: dict[str, Tensor] = {}
        self._keys: dict[Path, frozenset[str]] = {}

    def read(self, wanted: Iterable[str]) -> None:
        """Read those rows of `wanted` that are on disk by now; raises `UserError` if a file is damaged."""
        missing = set(wanted) - self.kept.keys()
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._keys or missing & self._keys[path]:
                tensors, about = load_file(path)
                parts = tensors["log_probs"].split(tensors["lengths"].tolist())
                rows = dict(zip(json.loads(about["keys"]), parts, strict=True))
                self._keys[path] = frozenset(rows)
                self.kept |= {key: rows[key] for key in missing & rows.keys()}

    def name(self, keys: Iterable[str]) -> str:
        """The file to which the chunk of these rows belongs."""
        return f"{digest(sorted(keys))}.safetensors"

    def names(self) -> set[str]:
        """All files that are there by now."""
        return {path.name for path in self.folder.glob("*.safetensors")}

    def write(self, rows: Mapping[str, Tensor], name: str) -> None:
        """Write a chunk; it appears when it is complete."""
        path = self.folder / name
        tensors = {
            "log_probs": torch.cat([*rows.values(), torch.empty(0)]),
            "lengths": torch.tensor([len(row) for row in rows.values()], dtype=torch.int64),
        }
        try:
            save_file(tensors, path, {"keys": json.dumps(list(rows))})
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be written ({error}); free some space or set MMSAFE_CACHE") from error
