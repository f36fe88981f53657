"""`mmsafe.compare`: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mmsafe.core.command_line import as_text
from mmsafe.core.endings import show_results
from mmsafe.core.options import InputName, Share, options
from mmsafe.runs.plan import Correction
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.evaluation.comparison import Change, Comparison

COLUMNS = ("outcome", "n", "a", "b", "b - a", "test", "p", "corrected", "found from")
COUNTS = "both/a/b/neither"


@options
class CompareConfig:
    """`conf/compare.yaml`, typed."""

    a: InputName
    b: InputName
    max_unpaired: Share
    correction: Correction
    margin: Annotated[float, Field(gt=0, lt=1)] | None


def show_comparison(config: CompareConfig, run: RunContext) -> None:
    """Print the comparison and write it to `comparison.json`."""
    from mmsafe.core.files import write_record
    from mmsafe.evaluation.comparison import compare, read_judged_run
    from mmsafe.reporting.table import print_tables, table_of

    a, b, correction, margin = config.a, config.b, config.correction, config.margin
    comparison = compare(read_judged_run(Path(a)), read_judged_run(Path(b)), config.max_unpaired, correction, margin)
    about = {"a": a, "b": b, "correction": correction, "margin": margin}
    write_record(run.folder / "comparison.json", {**about, **comparison.as_json()})
    title = f"{comparison.benchmark}: from a={a} to b={b}, {len(comparison.ids)} prompts"
    columns = [*COLUMNS, *["equivalence, p"] * bool(margin), COUNTS]
    rows = [_row(*item, with_margin=bool(margin)) for item in comparison.changes.items()]
    print_tables([table_of(title, columns, rows, " · ".join(_notes(comparison, config)))])
    show_results(run.folder / "comparison.json", f"python -m mmsafe.samples runs=[{as_text(a)},{as_text(b)}]")


def _row(name: str, change: Change, *, with_margin: bool) -> list[str]:
    """Shares, difference, tests, with that of equivalence where there is a margin, and the 2×2 table of counts."""
    paired, moved = change.paired, change.paired.difference
    bounds = f" ({change.lowest:+.3f} to {change.highest:+.3f})" if change.lowest < change.highest else ""
    least = "–" if change.found_from is None else f"{change.found_from:.3f}"
    alike = "–" if change.equivalent_p is None else f"{change.equivalent_p:.2g}"
    return [
        name,
        str(moved.n),
        f"{(paired.both + paired.first_only) / moved.n:.3f}",
        f"{(paired.both + paired.second_only) / moved.n:.3f}",
        f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]{bounds}",
        change.test,
        f"{change.p:.2g}",
        f"{change.corrected:.2g}",
        least,
        *[alike] * with_margin,
        "/".join(map(str, (paired.both, paired.first_only, paired.second_only, paired.neither))),
    ]


def _notes(comparison: Comparison, config: CompareConfig) -> Iterator[str]:
    a, b = map(_evidence, comparison.evidence.values())
    evidence = a if a == b else f"in a {a or 'not told'}, in b {b or 'not told'}"
    yield f"judge: {comparison.judge}" + f" ({evidence})" * bool(evidence)
    if by := " and ".join(comparison.clusters):
        yield f"brackets: 95 %, for clusters by {by}"
        yield "t(df): Student's, from the variance of clusters; McNemar: one cluster, or such as do not differ"
    else:
        yield "brackets: 95 % paired bootstrap; McNemar's exact test"
    yield f"corrected: p for the number of tests ({config.correction})"
    yield "found from: smallest true difference that so many prompts find in 80 % of experiments"
    if config.margin:
        yield f"equivalence, p: that the difference is smaller than {config.margin:g}, each by itself"
    if any(comparison.unknown):
        before, after = comparison.unknown
        yield f"unknown, counted as unsafe: {before} in a, {after} in b; parentheses: whatever these were in truth"
    if any(comparison.left_out.values()):
        yield "left out: " + ", ".join(f"{len(ids)} {why}" for why, ids in comparison.left_out.items() if ids)


def _evidence(kinds: Mapping[str, str]) -> str:
    """Of one judge what its verdicts are, of several with their names."""
    return ", ".join(kind if len(kinds) == 1 else f"{label}: {kind}" for label, kind in kinds.items())
