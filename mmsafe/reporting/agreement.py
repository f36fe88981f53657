"""`mmsafe.agreement`: its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from mmsafe.core.endings import show_results
from mmsafe.core.options import InputName, as_list, options
from mmsafe.runs.run_context import RunContext

if TYPE_CHECKING:
    from mmsafe.evaluation.raters import Rater


@options
class AgreementConfig:
    """`conf/agreement.yaml`, typed."""

    a: InputName
    b: Annotated[list[InputName], BeforeValidator(as_list)]


def show_agreement(config: AgreementConfig, run: RunContext) -> None:
    """Print the agreement of every two raters; write `agreement.json`, and `disagreements.jsonl` without any text."""
    from mmsafe.core.files import write_record, write_rows
    from mmsafe.evaluation.raters import agree
    from mmsafe.reporting.agreement_table import agreement_tables
    from mmsafe.reporting.table import print_tables

    pairs = [agree(*two) for two in combinations(_raters([config.a, *config.b]), 2)]
    write_rows(run.folder / "disagreements.jsonl", [row for pair in pairs for row in pair.disagreements])
    found = {"a": config.a, "b": config.b, "pairs": [pair.as_json() for pair in pairs]}
    write_record(run.folder / "agreement.json", found)
    print_tables([table for pair in pairs for table in agreement_tables(pair)])
    show_results(run.folder)


def _raters(names: Sequence[str]) -> list[Rater]:
    """One for each file, called by it where they would be called alike."""
    from mmsafe.evaluation.raters import read_rater

    raters = [read_rater(Path(name)) for name in names]
    called = [rater.name for rater in raters]
    return [
        replace(rater, name=name) if called.count(rater.name) > 1 else rater
        for name, rater in zip(names, raters, strict=True)
    ]
