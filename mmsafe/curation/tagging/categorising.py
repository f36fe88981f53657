"""What `mmsafe.tag` does."""

import logging
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field

from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.curation.tagging.tagger import Tagger
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.categories import UNKNOWN, write_categories
from mmsafe.data.data_source import DataSource
from mmsafe.data.example import Example, fingerprint
from mmsafe.models.model_source import ModelSource
from mmsafe.runs.run_context import RunContext

log = logging.getLogger(__name__)
FILE = "categories.jsonl"


@options
class TagConfig:
    """`conf/tag.yaml`, typed."""

    data: DataSource
    parts: Annotated[list[Literal["train", "holdout", "test"]], Field(min_length=1)]
    taxonomy: Taxonomy
    tagger: Tagger
    model: ModelSource


def tag(config: TagConfig, run: RunContext) -> None:
    """Write `categories.jsonl` (`id`, `prompt_hash`, `category`) into the run folder; print their counts."""
    from rich.table import Table

    from mmsafe.reporting.table import print_tables
    from mmsafe.runs.run_folder import RunFolder

    folder = RunFolder(run.folder, run.cfg)
    folder.claim()
    examples = _read(config)
    log.info("%d examples", len(examples))
    categories = config.tagger.categories(examples, config.taxonomy, config.model)
    write_categories(folder.path / FILE, examples, categories)
    counts = Counter(categories)
    folder.note(data=fingerprint(examples), categories=dict(counts.most_common()))
    table = Table("category", "examples", "share", title="categories")
    for name in [*config.taxonomy.categories, UNKNOWN]:
        table.add_row(name, str(counts[name]), f"{counts[name] / counts.total():.3f}")
    print_tables([table])
    show_results(folder.path / FILE, "python -m mmsafe.train data.categories={}, with the same data")


def _read(config: TagConfig) -> list[Example]:
    """The examples of all parts; one that is in several of them once."""
    examples: dict[tuple[str, str], Example] = {}
    for part in config.parts:
        loaded = config.data.prompts() if part == "train" else getattr(config.data, part)()
        examples |= {(example.id, example.prompt_key()): example for example in loaded.examples}
    if not examples:
        raise UserError(f"parts=[{', '.join(config.parts)}]: there is no example in them; name others")
    return list(examples.values())
