"""What a build ends with: the JSON file of MMSafe-PO, its images, whose they are, and a data card."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from mmsafe.core.files import write_atomically, write_json
from mmsafe.curation.build.data_card import data_card
from mmsafe.curation.build.stage import Row, Site
from mmsafe.curation.build.stage_file import StageFile
from mmsafe.data.readers.mmsafe_po import MMSafePO

log = logging.getLogger(__name__)
PAIRS, ATTRIBUTION, CARD = "pairs.json", "attribution.json", "README.md"
RESPONSES = ("chosen", "rejected")
FIELDS = (
    "id",
    "question",
    "image",
    "chosen",
    "rejected",
    "type",
    "entity",
    "entity_type",
    "replacement",
    "text_prompt",
    "mid_prompt",
)
"""Of a published row, in its order."""


def write_set(site: Site, files: list[StageFile]) -> Path:
    """Write the set and read it back with `data=mmsafe_po`; returns the path of its rows.

    Images that no row has are deleted; the card is written last.
    """
    rows = files[-1].rows(files[0].outcomes())
    path = site.folder / PAIRS
    pairs = [_published(key, row) for key, row in rows.items()]
    write_atomically(path, json.dumps(pairs, indent=1, ensure_ascii=False) + "\n")
    attribution = {row["image"]: row["attribution"] for row in rows.values() if "attribution" in row}
    write_json(site.folder / ATTRIBUTION, dict(sorted(attribution.items())))
    _delete_others(site.images, {row["image"] for row in rows.values()})
    examples = MMSafePO(path=path, holdout_share=0).train().examples
    write_atomically(site.folder / CARD, data_card(files, rows, attribution, examples))
    log.info("%d pairs with %d images in %s", len(pairs), len(attribution), path)
    return path


def _published(key: str, row: Row) -> dict[str, Any]:
    labelled: Row = {"id": int(key), **{field: f"ASSISTANT: {row[field]}" for field in RESPONSES}}
    return {field: (row | labelled)[field] for field in FIELDS}


def _delete_others(images: Path, used: set[str]) -> None:
    for path in images.iterdir():
        if path.name not in used:
            path.unlink()
