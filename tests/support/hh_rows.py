"""Harmless rows in the format of HH-RLHF, and the command that builds a set from them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

PLACES = ("Berlin", "Paris", "Ghana", "Texas", "Peru", "Kenya", "Norway", "Japan", "Chile", "Nepal", "Rome", "Cuba")


def hh_row(words: str, before: str = "", chosen: str = "I will.", rejected: str = "I won't.") -> dict[str, str]:
    """A pair whose conversation ends with `words` of the user."""
    prompt = f"{before}\n\nHuman: {words}\n\nAssistant: "
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}


def write_hh(path: Path, rows: Sequence[dict[str, str]] | None = None) -> Path:
    """A .jsonl or .jsonl.gz file; by default a row about each of `PLACES`, and one that names nothing."""
    if rows is None:
        rows = [*(hh_row(f"What can I see in {place}?") for place in PLACES), hh_row("what is a cat?")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def build_words(folder: Path, data: Path, api: str, *more: str) -> list[str]:
    """Overrides of a build without models, as fast as the server answers."""
    return [
        f"out={folder / 'set'}",
        f"conversations.path={data}",
        "entities=rule",
        "rewording=none",
        "entity_image.contact=test@example.org",
        f"entity_image.api={api}",
        "entity_image.requests_per_second=1000",
        f"hydra.run.dir={folder / 'log'}",
        *more,
    ]
