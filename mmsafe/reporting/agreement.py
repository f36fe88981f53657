"""`mmsafe.agreement`: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from mmsafe.core.endings import show_results
from mmsafe.core.options import InputName, as_list, options
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from rich.table import Table

    from mmsafe.evaluation.raters import Rater, RaterPair
    from mmsafe.evaluation.statistics import Estimate

CORRECTED = (
    "unknown counts as yes · corrected by Rogan & Gladen (1978), interval of Lang & Reiczigel (2014), from labels of a "
    "random sample; none where sensitivity + specificity ≤ 1: there the judge is no better than chance"
)


@options
class AgreementConfig:
    """`conf/agreement.yaml`, typed."""

    a: InputName
    b: Annotated[list[InputName], BeforeValidator(as_list)]


def show_agreement(config: AgreementConfig, run: RunContext) -> None:
    """Print the agreement of every two raters; write `agreement.json`, and `disagreements.jsonl` without any text."""
    from mmsafe.core.files import write_record, write_rows
    from mmsafe.evaluation.raters import agree
    from mmsafe.reporting.table import print_tables

    pairs = [agree(*two) for two in combinations(_raters([config.a, *config.b]), 2)]
    write_rows(run.folder / "disagreements.jsonl", [row for pair in pairs for row in pair.disagreements])
    record = {"a": config.a, "b": config.b, "pairs": [pair.as_json() for pair in pairs]}
    write_record(run.folder / "agreement.json", record)
    print_tables(table for pair in pairs for table in _tables(pair))
    show_results(run.folder)


def _raters(names: Sequence[str]) -> list[Rater]:
    """One for each file, called by it where they would be called alike."""
    from mmsafe.evaluation.raters import read_rater

    raters = [read_rater(Path(name)) for name in names]
    judges = [rater.name for rater in raters]
    return [
        replace(rater, name=name) if judges.count(rater.name) > 1 else rater
        for name, rater in zip(names, raters, strict=True)
    ]


def _tables(pair: RaterPair) -> Iterator[Table]:
    """Shares and κ with and without unknown, then the confusion matrix of each question."""
    from mmsafe.evaluation.raters import LABELS
    from mmsafe.reporting.table import table_of

    rows = [
        [f"{field}{note}", str(both.share.n if both.share else 0), _cell(both.share), _cell(both.kappa)]
        for note, by_field in (("", pair.with_unknown), (", unknown left out", pair.without_unknown))
        for field, both in by_field.items()
    ]
    yield table_of(
        f"{pair.first} and {pair.second}: {pair.rated} responses rated by both",
        ("question", "n", "agree", "Cohen's κ"),
        rows,
        f"95 % intervals in brackets · rated by {pair.first} alone: {pair.only_first}, by {pair.second} alone: "
        f"{pair.only_second} · {len(pair.disagreements)} disagreements in disagreements.jsonl",
    )
    if pair.calibration:
        rows = [[field, *map(_cell, estimates.values())] for field, estimates in pair.calibration.items()]
        head = ("question", "sensitivity", "specificity", "rate by the judge", "corrected rate")
        yield table_of(f"{pair.first} and {pair.second}: judge against person", head, rows, CORRECTED)
    for field, both in pair.with_unknown.items():
        counts = [[label, *(str(row[other]) for other in LABELS)] for label, row in both.table.items()]
        yield table_of(f"{field}?", (f"{pair.first} ↓  {pair.second} →", *LABELS), counts)


def _cell(estimate: Estimate | None) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate else "–"
