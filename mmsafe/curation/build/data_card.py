"""The data card of a set: what it is made of, and by which options; none of its text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import DatasetCardData

from mmsafe.curation.build.stage import Row
from mmsafe.curation.build.stage_file import HEADER, StageFile
from mmsafe.data.example import Example, fingerprint

PACKAGES = ("mmsafe", "transformers", "httpx2", "pillow")
INTRODUCTION = """\
# Multimodal preference pairs

Made from text-only preference pairs as in [arXiv 2503.14189](https://arxiv.org/abs/2503.14189): an entity that the
last turn of the user names was replaced by its image. The fields of `pairs.json` are those of MMSafe-PO; images are in
`images/`, whose they are stands in `attribution.json`. Read the set with `data=mmsafe_po data.path=pairs.json`.

The text is red-teaming data: it is offensive, and names persons. The responses are those of the text-only pairs.
"""


def data_card(
    files: Sequence[StageFile],
    rows: Mapping[str, Row],
    attribution: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Example],
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    head = DatasetCardData(license="other", task_categories=["image-text-to-text"], tags=["preference", "safety"])
    options = {file.name: file.found[HEADER].row for file in files}
    parts = [
        f"---\n{head.to_yaml()}\n---\n",
        INTRODUCTION,
        "## Size\n",
        _table(("what", "number"), _sizes(rows, attribution)),
        "## Stages\n",
        _table(("stage", "rows in", "kept", "dropped", "remarks"), map(_stage, files)),
        "## Licences of the images\n",
        _table(("licence", "images"), _licences(attribution)),
        "## Versions\n",
        _table(("package", "version"), [(name, version(name)) for name in PACKAGES]),
        f"Fingerprint of the examples: `{fingerprint(examples)}`\n",
        "## Settings\n",
        f"```json\n{json.dumps(options, indent=2, ensure_ascii=False)}\n```\n",
    ]
    return "\n".join(parts)


def _sizes(rows: Mapping[str, Row], attribution: Mapping[str, object]) -> list[tuple[str, int]]:
    kinds = Counter(row["entity_type"] for row in rows.values())
    several = sum(" ASSISTANT: " in row["question"] for row in rows.values())
    counts = {"pairs": len(rows), "images": len(attribution), "conversations of several turns": several}
    return [*counts.items(), *((f"entities {kind}", count) for kind, count in sorted(kinds.items()))]


def _stage(file: StageFile) -> tuple[object, ...]:
    count, dropped = len(file.outcomes()), file.dropped()
    return file.name, count, count - dropped.total(), _counts(dropped), _counts(file.remarks())


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "–"


def _licences(attribution: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int]]:
    return Counter(attribution.get("licence") or "not stated" for attribution in attribution.values()).most_common()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)
