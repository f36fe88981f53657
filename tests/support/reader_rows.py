"""Every reader with a row of its data set, as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from mmsafe.data.readers.beavertails_v import BeaverTailsV
from mmsafe.data.readers.hh_text import HHText
from mmsafe.data.readers.llava_instruct import LLaVAInstruct
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.data.readers.rlaif_v import RLAIFV
from mmsafe.data.readers.rlhf_v import RLHFV
from mmsafe.data.readers.spa_vl import SPAVL
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.data.readers.trl_sft import TRLSupervised
from mmsafe.data.readers.vlguard import VLGuard
from mmsafe.data.row_source import RowSource

READERS: dict[str, type[RowSource]] = {
    "mmsafe_po": MMSafePO,
    "spa_vl": SPAVL,
    "beavertails_v": BeaverTailsV,
    "rlaif_v": RLAIFV,
    "rlhf_v": RLHFV,
    "vlguard": VLGuard,
    "hh_text": HHText,
    "llava_instruct": LLaVAInstruct,
    "trl": TRLPreference,
    "trl_sft": TRLSupervised,
}
PAIR = {"question": "What is it?", "chosen": "A tree.", "rejected": "A house."}
ROWS: dict[str, dict[str, Any]] = {
    "mmsafe_po": {**PAIR, "question": "USER: <image>\nWhat is it? ASSISTANT:", "image": "a.png", "type": "harmless"},
    "spa_vl": {**PAIR, "image": "a.png", "class1": "Harms", "class2": "Toxic", "class3": "Insult"},
    "beavertails_v": {
        "question": "What is it?",
        "image": "a.png",
        "response_1": "A house.",
        "response_2": "A tree.",
        "safer_response_id": 2,
        "more_helpful_response_id": 1,
        "category": "weapons",
        "image_severity": 2,
    },
    "rlaif_v": {**PAIR, "image": "a.png", "origin_dataset": "COCO", "idx": "7"},
    "rlhf_v": {"text": json.dumps(PAIR), "image": "a.png", "origin_dataset": "COCO", "idx": 7},
    "vlguard": {
        "id": "7",
        "image": "a.png",
        "safe": True,
        "harmful_category": "deception",
        "harmful_subcategory": "disinformation",
        "instr-resp": [
            {"safe_instruction": "What is it?", "response": "A tree."},
            {"unsafe_instruction": "Burn it?", "response": "No."},
        ],
    },
    "hh_text": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What is it?\n\nAssistant: A tree.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What is it?\n\nAssistant: A house.",
    },
    "llava_instruct": {
        "id": "7",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A tree."},
            {"from": "human", "value": "How tall?"},
            {"from": "gpt", "value": "Very."},
        ],
    },
    "trl": {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        "chosen": [{"role": "assistant", "content": "A tree."}],
        "rejected": [{"role": "assistant", "content": "A house."}],
        "images": ["a.png"],
    },
    "trl_sft": {"prompt": "What is it?", "completion": "A tree.", "images": ["a.png"]},
}


def numbered(name: str, count: int) -> list[dict[str, Any]]:
    """Rows of a reader, with distinct ids where rows have ids."""
    return [ROWS[name] | ({"id": number} if name in ("mmsafe_po", "vlguard") else {}) for number in range(count)]


def picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (4, 4), (colour % 256, 0, 0)).save(path, "PNG")
    return path


def json_file(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]], image: str = "image") -> Path:
    """The rows as `datasets` writes them; images are given as bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {str: Value("string"), int: Value("int64")}
    images = {"image": Image(), "images": List(Image())}
    features = {name: images.get(name) or kinds[type(value)] for name, value in rows[0].items()}
    stored = [row | {image: _stored(row[image])} for row in rows]
    Dataset.from_list(stored, features=Features(features)).to_parquet(path)
    return path


def _stored(value: Any) -> Any:
    if isinstance(value, list):
        return [_stored(one) for one in value]
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value
