"""`python -m mmsafe.tag`: give the examples of a data set that has no categories one each, of a taxonomy."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.curation.tagging.tagger import Tagger
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource
from mmsafe.runs.app import launch

log = logging.getLogger(__name__)
FILE = "categories.jsonl"
DataPart = Literal["train", "holdout", "test"]


@options
class TagConfig:
    """`conf/tag.yaml`, typed."""

    data: DataSource
    parts: Annotated[list[DataPart], Field(min_length=1)]
    taxonomy: Taxonomy
    tagger: Tagger
    model: ModelSource


def run(config: TagConfig, cfg: DictConfig) -> Path:
    """Write `categories.jsonl` (`id`, `prompt_hash`, `category`) into the run folder and print how many are of each.

    Returns the file's path, which `data.categories` takes.
    """
    from mmsafe.data.categories import write_categories
    from mmsafe.data.example import fingerprint
    from mmsafe.runs.run_folder import RunFolder

    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir), cfg)
    folder.claim()
    examples = _read(config)
    log.info("%d examples", len(examples))
    categories = config.tagger.categories(examples, config.taxonomy, config.model)
    path = folder.path / FILE
    write_categories(path, examples, categories)
    counts = Counter(categories)
    folder.note(data=fingerprint(examples), categories=dict(counts.most_common()))
    _print(counts, config.taxonomy)
    log.info("wrote %s: pass it as data.categories", path)
    return path


def _read(config: TagConfig) -> list[Example]:
    """The examples of all parts; one that is in several of them once."""
    found: dict[tuple[str, str], Example] = {}
    for part in config.parts:
        loaded = config.data.prompts() if part == "train" else getattr(config.data, part)()
        found |= {(example.id, example.prompt_key()): example for example in loaded.examples}
    if not found:
        raise UserError(f"parts=[{', '.join(config.parts)}]: there is no example in them; name others")
    return list(found.values())


def _print(counts: Counter[str], taxonomy: Taxonomy) -> None:
    from rich.table import Table

    from mmsafe.data.categories import UNKNOWN
    from mmsafe.reporting.table import print_tables

    table = Table("category", "examples", "share", title="categories")
    for name in [*taxonomy.categories, UNKNOWN]:
        table.add_row(name, str(counts[name]), f"{counts[name] / counts.total():.3f}")
    print_tables([table])


def main() -> None:
    """Entry point."""
    launch("tag", TagConfig, run)


if __name__ == "__main__":
    main()
