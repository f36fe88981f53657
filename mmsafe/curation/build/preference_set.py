"""What a build ends with: the JSON file of MMSafe-PO, its images, whose they are, and a data card."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import DatasetCardData

from mmsafe.core.files import write_atomically, write_json
from mmsafe.curation.build.stage import Row, Site
from mmsafe.curation.build.stage_file import HEADER, StageFile
from mmsafe.data.example import fingerprint
from mmsafe.data.readers.mmsafe_po import MMSafePO

log = logging.getLogger(__name__)
PAIRS, ATTRIBUTION, CARD = "pairs.json", "attribution.json", "README.md"
FIELDS = (
    *("id", "question", "image", "chosen", "rejected", "type", "entity", "entity_type", "replacement"),
    *("text_prompt", "mid_prompt"),
)
"""Of a published row, in its order."""
PACKAGES = ("mmsafe", "transformers", "httpx2", "pillow")
INTRODUCTION = """\
# Multimodal preference pairs

Made from text-only preference pairs as in [arXiv 2503.14189](https://arxiv.org/abs/2503.14189): an entity that the
last turn of the user names was replaced by its image. The fields of `pairs.json` are those of MMSafe-PO; images are in
`images/`, whose they are stands in `attribution.json`. Read the set with `data=mmsafe_po data.path=pairs.json`.

The text is red-teaming data: it is offensive, and names persons. The responses are those of the text-only pairs.
"""


def write_set(site: Site, files: list[StageFile]) -> None:
    """Write the set and read it back with `data=mmsafe_po`.

    Images that no row has are deleted; the card is written last.
    """
    rows = files[-1].rows(files[0].outcomes())
    path = site.folder / PAIRS
    pairs = []
    for key, row in rows.items():
        labelled = {field: f"ASSISTANT: {row[field]}" for field in ("chosen", "rejected")}
        pairs.append({field: (row | labelled | {"id": int(key)})[field] for field in FIELDS})
    write_atomically(path, json.dumps(pairs, indent=1, ensure_ascii=False) + "\n")
    attribution = {row["image"]: row["attribution"] for row in rows.values() if "attribution" in row}
    write_json(site.folder / ATTRIBUTION, dict(sorted(attribution.items())))
    used = {row["image"] for row in rows.values()}
    for image in site.images.iterdir():
        if image.name not in used:
            image.unlink()
    examples = MMSafePO(path=path, holdout_share=0).train().examples
    write_atomically(site.folder / CARD, _card(files, rows, attribution, fingerprint(examples)))
    log.info("%d pairs with %d images in %s", len(pairs), len(attribution), path)


def _card(
    files: Sequence[StageFile], rows: Mapping[str, Row], attribution: Mapping[str, Mapping[str, Any]], hashed: str
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads: counts and options, none of the text."""
    head = DatasetCardData(license="other", task_categories=["image-text-to-text"], tags=["preference", "safety"])
    options = {file.name: file.kept[HEADER].row for file in files}
    several = sum(" ASSISTANT: " in row["question"] for row in rows.values())
    sizes = {"pairs": len(rows), "images": len(attribution), "conversations of several turns": several}
    kinds = Counter(f"entities {row['entity_type']}" for row in rows.values())
    licences = Counter(credit.get("licence") or "not stated" for credit in attribution.values())
    parts = [
        f"---\n{head.to_yaml()}\n---\n",
        INTRODUCTION,
        "## Size\n",
        _table(("what", "number"), [*sizes.items(), *sorted(kinds.items())]),
        "## Stages\n",
        _table(("stage", "rows in", "kept", "dropped", "remarks"), map(_stage, files)),
        "## Licences of the images\n",
        _table(("licence", "images"), licences.most_common()),
        "## Versions\n",
        _table(("package", "version"), [(name, version(name)) for name in PACKAGES]),
        f"Fingerprint of the examples: `{hashed}`\n",
        "## Settings\n",
        f"```json\n{json.dumps(options, indent=2, ensure_ascii=False)}\n```\n",
    ]
    return "\n".join(parts)


def _stage(file: StageFile) -> tuple[object, ...]:
    count, dropped = len(file.outcomes()), file.dropped()
    return file.name, count, count - dropped.total(), _counts(dropped), _counts(file.remarks())


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)
