"""`mmsafe.compare`: its options, and what it does with them."""

from __future__ import annotations

from pathlib import Path

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.options import InputName, Share, options
from mmsafe.runs.run_context import RunContext


@options
class CompareConfig:
    """`conf/compare.yaml`, typed."""

    a: InputName
    b: InputName
    max_unpaired: Share


def show_comparison(config: CompareConfig, run: RunContext) -> None:
    """Print the comparison and write it to `comparison.json`."""
    from mmsafe.core.files import write_record
    from mmsafe.evaluation.comparison import compare, read_judged_run
    from mmsafe.reporting.comparison_table import comparison_table
    from mmsafe.reporting.table import print_tables

    a, b = (read_judged_run(Path(name)) for name in (config.a, config.b))
    found = compare(a, b, config.max_unpaired)
    write_record(run.folder / "comparison.json", {"a": config.a, "b": config.b, **found.as_json()})
    print_tables([comparison_table(found, config.a, config.b)])
    both = f"[{as_text(config.a)},{as_text(config.b)}]"
    show_results(run.folder / "comparison.json", f"python -m mmsafe.samples runs={both}")
