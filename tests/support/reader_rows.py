"""Every reader with a row of its data set, as published."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from mmsafe.core.config import conf_dir, options_class
from mmsafe.core.errors import UserError
from mmsafe.data.row_source import RowSource

NODES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "data").glob("*.yaml"))}
CLASSES = {name: options_class(node["_target_"], "data") for name, node in NODES.items()}
READERS: dict[str, type[RowSource]] = {name: cls for name, cls in CLASSES.items() if issubclass(cls, RowSource)}
PAIR = {"question": "What is it?", "chosen": "A tree.", "rejected": "A house."}
ROWS: dict[str, dict[str, Any]] = {
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
    "llamafactory": {
        "conversations": [{"from": "human", "value": "<image>What is it?"}],
        "chosen": {"from": "gpt", "value": "A tree."},
        "rejected": {"from": "gpt", "value": "A house."},
        "images": ["a.png"],
    },
    "mdpo": {
        "img_path": "a.png",
        "prompt": (
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT:"
        ),
        "chosen": "A tree.",
        "rejected": "A house.",
    },
    "mmsafe_po": {
        "question": "USER: <image>\nWhat is it? ASSISTANT:",
        "chosen": "A tree.",
        "rejected": "A house.",
        "image": "a.png",
        "type": "harmless",
    },
    "trl": {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
        "chosen": [{"role": "assistant", "content": "A tree."}],
        "rejected": [{"role": "assistant", "content": "A house."}],
        "images": ["a.png"],
    },
    "auto": {"prompt": "What is it?", "chosen": "A tree.", "rejected": "A house.", "images": ["a.png"]},
    "trl_sft": {"prompt": "What is it?", "completion": "A tree.", "images": ["a.png"]},
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
    "spa_vl": {
        "question": "What is it?",
        "chosen": "A tree.",
        "rejected": "A house.",
        "image": "a.png",
        "class1": "Harms",
        "class2": "Toxic",
        "class3": "Insult",
    },
    "rlaif_v": {
        "question": "What is it?",
        "chosen": "A tree.",
        "rejected": "A house.",
        "image": "a.png",
        "origin_dataset": "COCO",
        "idx": "7",
    },
    "rlhf_v": {
        "text": '{"question": "What is it?", "chosen": "A tree.", "rejected": "A house."}',
        "image": "a.png",
        "origin_dataset": "COCO",
        "idx": 7,
    },
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


def reader(name: str, path: Path, **options: Any) -> RowSource:
    return READERS[name](path=path, **options)


def error_of(source: RowSource) -> str:
    with pytest.raises(UserError) as caught:
        source.test()
    assert "\n" not in str(caught.value)
    return str(caught.value)
