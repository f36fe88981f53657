"""Two raters side by side, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from mmsafe.evaluation.raters import LABELS, Agreement, RaterPair
from mmsafe.evaluation.statistics import Estimate


def agreement_tables(pair: RaterPair) -> Iterator[Table]:
    """Shares and κ with and without unknown, then the confusion matrix of each question."""
    table = Table(title=Text(f"{pair.first} and {pair.second}: {pair.rated} responses rated by both"))
    table.add_column("question")
    for name in ("n", "agree", "Cohen's κ"):
        table.add_column(name, justify="right")
    for note, found in (("", pair.with_unknown), (", unknown left out", pair.without_unknown)):
        for field, agreement in found.items():
            n = agreement.share.n if agreement.share else 0
            table.add_row(f"{field}{note}", str(n), _cell(agreement.share), _cell(agreement.kappa))
    table.caption = Text(
        f"95 % intervals in brackets · rated by {pair.first} alone: {pair.only_first}, by {pair.second} alone: "
        f"{pair.only_second} · {len(pair.disagreements)} disagreements in disagreements.jsonl"
    )
    yield table
    for field, agreement in pair.with_unknown.items():
        yield _confusion(pair, field, agreement)


def _confusion(pair: RaterPair, field: str, agreement: Agreement) -> Table:
    table = Table(title=Text(f"{field}?"))
    table.add_column(Text(f"{pair.first} ↓  {pair.second} →"))
    for label in LABELS:
        table.add_column(label, justify="right")
    for label, counts in agreement.table.items():
        table.add_row(label, *(str(counts[other]) for other in LABELS))
    return table


def _cell(estimate: Estimate | None) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate else "–"
