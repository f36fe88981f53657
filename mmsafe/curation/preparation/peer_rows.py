"""Rows in the formats of LLaMA-Factory and of ms-swift, with their images as files."""

import hashlib
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mmsafe.data.conversation import written
from mmsafe.data.example import Example


def peer_row(example: Example, row: Mapping[str, Any], form: str, folder: Path) -> dict[str, Any]:
    """A row in TRL's form in another; the bytes of its images become files of `folder`."""
    messages = [{"role": turn.role, "content": written(turn)} for turn in example.turns]
    answers = {name: {"role": "assistant", "content": text} for name, text in example.responses.items()}
    if "rejected" in row and form == "llamafactory":
        pair: dict[str, Any] = {name: answers.get(name) for name in ("chosen", "rejected")}
    else:
        messages += [answers["chosen"]] if "chosen" in answers else []
        pair = {"rejected_response": example.responses.get("rejected")} if "rejected" in row else {}
    kept = {name: cell for name, cell in row.items() if name not in ("prompt", "completion", "chosen", "rejected")}
    images = {"images": [_named(image, folder) for image in row["images"]]} if "images" in row else {}
    return {**kept, "messages": messages, **pair, **images}


def _named(image: Mapping[str, Any], folder: Path) -> str:
    """How rows call an image, which is written if it is no file of its own."""
    if image["bytes"] is None:
        return str(image["path"])
    with Image.open(BytesIO(image["bytes"])) as opened:
        name = f"{hashlib.sha256(image['bytes']).hexdigest()[:32]}.{str(opened.format).lower()}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        (folder / name).write_bytes(image["bytes"])
    return f"{folder.name}/{name}"


def dataset_info(splits: Mapping[str, Mapping[str, Any]], columns: Collection[str]) -> dict[str, Any]:
    """What LLaMA-Factory's `dataset_info.json` tells of a set."""
    named = {name: name for name in ("messages", "chosen", "rejected", "images") if name in columns}
    entry = {"formatting": "sharegpt", "ranking": "rejected" in columns, "columns": named}
    tags = {f"{name}_tag": name for name in ("role", "content", "user", "assistant", "system")}
    return {name: {"file_name": split["shards"][0], **entry, "tags": tags} for name, split in splits.items()}
