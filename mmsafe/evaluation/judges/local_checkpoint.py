"""What is known of a judge that is a checkpoint, before it is loaded."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmsafe.core.errors import UserError
from mmsafe.core.options import CheckpointName, Count, options
from mmsafe.data.example import digest
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.judges.keywords import Keywords

HASHING = 4
"""Files of a checkpoint that are hashed at a time."""
FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""What is read of a checkpoint, and downloaded."""


@options
class LocalCheckpoint(Judge):
    """A checkpoint that judges, and how it is read and asked."""

    vision: ClassVar[bool]
    """Whether it sees the image."""
    evidence: ClassVar[str] = "a model"

    together: ClassVar[int] = 64
    on_devices: ClassVar[bool] = True
    idle: ClassVar[frozenset[str]] = Judge.idle | {"model", "batch_size", "max_length", "accelerator"}

    model: CheckpointName | None = None
    """Folder or hub name; null: the published checkpoint."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the weights."""
    batch_size: Count = 8
    """Cases judged together; does not change the result beyond rounding."""
    max_length: Count = 8192
    """Tokens of a conversation without its image; a longer one is not cut but left unjudged, which is an error."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"

    @property
    @abstractmethod
    def published(self) -> str:
        """The hub name of the published checkpoint."""

    @property
    def checkpoint(self) -> str:
        """Folder or hub name of the checkpoint."""
        return self.model or self.published

    @property
    def tells_refusal(self) -> bool:
        """Whether the checkpoint itself says that a response refuses; else the word list of `judge=keywords` does."""
        return False

    @property
    def tells(self) -> frozenset[str]:
        """Without `refused` where a word list says it: no benchmark of refusals is to bear this judge's name."""
        return super().tells if self.tells_refusal else super().tells - {"refused"}

    @property
    def label(self) -> str:
        """With the checkpoint's name, and who tells refusals."""
        refusals = "" if self.tells_refusal else ", refusals by keywords"
        return f"{self.name}:{Path(self.checkpoint).name}{refusals}"

    def identity(self) -> dict[str, Any]:
        """The checkpoint by its content: where it lies does not matter."""
        refusals = {} if self.tells_refusal else {"refusals": Keywords().identity()}
        return {**super().identity(), **refusals, "checkpoint": content_hash(self.folder())}

    def folder(self) -> Path:
        """Where the checkpoint lies, downloaded if need be; raises `UserError` where it cannot be had."""
        path = Path(self.checkpoint).expanduser()
        if path.is_dir():
            if (path / "config.json").is_file():
                return path
            raise UserError(
                f"judge.model={self.checkpoint}: has no config.json: not a checkpoint that transformers reads"
            )
        if self.checkpoint.startswith((".", "/", "~")) or self.checkpoint.count("/") != 1:
            raise UserError(f"judge.model={self.checkpoint}: no such folder")
        from mmsafe.evaluation.judges.download import downloaded

        return downloaded(self.checkpoint, FILES)

    def check(self) -> None:
        """The checkpoint is there, and of a kind that this judge knows."""
        from mmsafe.models.checkpoints import CheckpointError, read_json

        try:
            self.check_config(read_json(self.folder() / "config.json"))
        except CheckpointError as error:
            raise UserError(f"judge.model={self.checkpoint}: {error}") from error

    @abstractmethod
    def check_config(self, config: dict[str, Any]) -> None:
        """Raise `CheckpointError` if a checkpoint with this `config.json` is not of a kind that this judge knows."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Longest reply, in tokens."""

    @property
    @abstractmethod
    def chat_template(self) -> str | None:
        """How it is asked; None: by the checkpoint's own chat template."""

    @property
    @abstractmethod
    def first_words(self) -> bool:
        """Whether replies come with the probabilities of their first words."""


def content_hash(folder: Path) -> str:
    """Hash of all that is read of a checkpoint."""

    def one(path: Path) -> list[str]:
        with path.open("rb") as file:
            return [path.name, hashlib.file_digest(file, "sha256").hexdigest()]

    files = sorted(path for pattern in FILES for path in folder.glob(pattern))
    with ThreadPoolExecutor(HASHING) as pool:
        return digest(list(pool.map(one, files)))
