"""Prompts of judges: text files in `prompts/<family>/`, whose first line is `# version N`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mmsafe.core.errors import UserError

FOLDER = Path(__file__).parent / "prompts"


@cache
def prompt(family: str, name: str) -> str:
    """The whole file, its version included: what a kept verdict depends on. Raises `UserError` if there is none."""
    path = FOLDER / family / f"{name}.txt"
    if not path.is_file():
        raise UserError(f"judge={family} cannot judge by '{name}': there is no {path}")
    return path.read_text(encoding="utf-8")


def without_version(text: str) -> str:
    """What a judge is sent of it."""
    version, _, body = text.partition("\n")
    assert version.startswith("# version "), version
    return body.strip()
