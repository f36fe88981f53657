"""`python -m mmsafe.agreement a=JUDGEMENTS b=LABELS`: how far judges agree with one another, or with people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import BeforeValidator

from mmsafe.app import launch
from mmsafe.options import InputName, options

if TYPE_CHECKING:
    from mmsafe.evaluation.labels import Rater


@options
class AgreementConfig:
    """`conf/agreement.yaml`, typed."""

    a: InputName
    b: Annotated[list[InputName], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)]


def run(config: AgreementConfig, cfg: DictConfig) -> None:
    """Print the agreement of every two raters; write `agreement.json`, and `disagreements.jsonl` without any text."""
    from mmsafe.evaluation.agreement import agree
    from mmsafe.reporting.agreement_table import agreement_tables
    from mmsafe.reporting.files import write_record, write_rows
    from mmsafe.reporting.table import print_tables

    pairs = [agree(*two) for two in combinations(_raters([config.a, *config.b]), 2)]
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_rows(folder / "disagreements.jsonl", [row for pair in pairs for row in pair.disagreements])
    write_record(folder / "agreement.json", {"a": config.a, "b": config.b, "pairs": [pair.as_json() for pair in pairs]})
    print_tables([table for pair in pairs for table in agreement_tables(pair)])


def _raters(names: Sequence[str]) -> list[Rater]:
    """One for each file, called by it where they would be called alike."""
    from mmsafe.evaluation.labels import read_rater

    raters = [read_rater(Path(name)) for name in names]
    called = [rater.name for rater in raters]
    return [
        replace(rater, name=name) if called.count(rater.name) > 1 else rater
        for name, rater in zip(names, raters, strict=True)
    ]


def main() -> None:
    """Entry point."""
    launch("agreement", AgreementConfig, run)


if __name__ == "__main__":
    main()
