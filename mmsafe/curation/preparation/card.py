"""The card of a prepared set, by which `datasets` loads it."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from mmsafe.data.example import digest

FORMATS = {
    "llamafactory": "LLaMA-Factory's sharegpt format (`dataset_dir: FOLDER`, and for answers `mask_history: true`)",
    "swift": "ms-swift's format (`ROOT_IMAGE_DIR=FOLDER`, and for answers `--loss_scale last_round`)",
}
TRL = "[TRL's format](https://huggingface.co/docs/trl/dataset_formats)"
UNREAD = "; `id`, `tags`, `blind` and `weakened` are read by mmsafe alone"


def card(about: Mapping[str, Any]) -> str:
    """Markdown with the front matter that names the files of each split; `about` is what `prepared.json` tells."""
    splits, refused = about["splits"], about["refused"]
    form, paired = about["format"], not {"chosen", "rejected_response"}.isdisjoint(about["columns"])
    reader = form if form == "llamafactory" else "trl" if paired else "trl_sft"
    tags = ["trl"] * (form not in FORMATS) + ["preference"] * paired
    # `datasets` caches a local folder by its name and this front matter alone: without words that are others in every
    # set, it would give the rows of one folder for those of another that is called the same.
    config = {
        "config_name": "default",
        "description": f"prepared by mmsafe, {digest(about)}",
        "data_files": [{"split": name, "path": f"data/{name}-*"} for name in splits],
    }
    head = DatasetCardData(configs=[config], tags=tags)
    counts = "".join(f"| {name} | {split['rows']:,} | {len(split['shards'])} |\n" for name, split in splits.items())
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items())) or "none"
    return f"""---
{head.to_yaml()}
---

# A data set prepared by mmsafe

In {FORMATS.get(form, TRL)}: columns {", ".join(about["columns"])}{UNREAD if form in FORMATS else ""}.

| split | rows | files |
|---|---|---|
{counts}
Rows that could not be used: {left_out}. `prepared.json` tells what this was made from, whose licence holds here too.

```python
datasets.load_dataset("FOLDER", split="{next(iter(splits))}")   # streaming=True reads a portion at a time
```

```bash
python -m mmsafe.train data={reader} data.path=FOLDER data.split={next(iter(splits))}
```
"""
