"""What `mmsafe.tag` does once its config has been checked."""

from __future__ import annotations

import logging
from collections import Counter

from rich.table import Table

from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.curation.tagging.tag_config import TagConfig
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.categories import UNKNOWN, write_categories
from mmsafe.data.example import Example, fingerprint
from mmsafe.reporting.table import print_tables
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder

log = logging.getLogger(__name__)
FILE = "categories.jsonl"


def tag(config: TagConfig, run: RunContext) -> None:
    """Write `categories.jsonl` (`id`, `prompt_hash`, `category`), which `data.categories` takes."""
    folder = RunFolder(run.folder, run.cfg)
    folder.claim()
    examples = _read(config)
    log.info("%d examples", len(examples))
    categories = config.tagger.categories(examples, config.taxonomy, config.model)
    write_categories(folder.path / FILE, examples, categories)
    counts = Counter(categories)
    folder.note(data=fingerprint(examples), categories=dict(counts.most_common()))
    print_tables([_table(counts, config.taxonomy)])
    show_results(folder.path / FILE, "python -m mmsafe.train data.categories={}, with the same data")


def _read(config: TagConfig) -> list[Example]:
    """The examples of all parts; one that is in several of them once."""
    found: dict[tuple[str, str], Example] = {}
    for part in config.parts:
        loaded = config.data.prompts() if part == "train" else getattr(config.data, part)()
        found |= {(example.id, example.prompt_key()): example for example in loaded.examples}
    if not found:
        raise UserError(f"parts=[{', '.join(config.parts)}]: there is no example in them; name others")
    return list(found.values())


def _table(counts: Counter[str], taxonomy: Taxonomy) -> Table:
    table = Table("category", "examples", "share", title="categories")
    for name in [*taxonomy.categories, UNKNOWN]:
        table.add_row(name, str(counts[name]), f"{counts[name] / counts.total():.3f}")
    return table
