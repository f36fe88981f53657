"""Gets a judge's checkpoint from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from mmsafe.core.errors import UserError
from mmsafe.models.locate import reachable


def downloaded(name: str, files: Sequence[str]) -> Path:
    """The folder of a checkpoint of the hub; raises `UserError` where it cannot be had."""
    if reachable(name):
        try:
            return Path(snapshot_download(name, allow_patterns=list(files)))
        except (HfHubHTTPError, OSError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"judge.model={name}: cannot be downloaded ({why})") from error
    raise UserError(
        f"judge.model={name}: not on this machine, and the hub cannot be reached or has no such model; where there is "
        f"a network, accept its licence, run `hf download {name} --local-dir DIR`, then pass judge.model=DIR"
    )
