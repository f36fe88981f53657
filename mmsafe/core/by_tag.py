"""Metrics of an evaluation by tag, `eval/metric/tag=value`, taken apart: a row for each, as a table and as CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmsafe.core.files import write_csv

FILE = "metrics_by_tag.csv"
NAME = re.compile(r"eval/([^/]+)/([^/=]+)=(.*)")


class Measured(NamedTuple):
    """A metric on the prompts whose tag has this value, with its 95 % interval; the fields are the file's columns."""

    tag: str
    value: str
    metric: str
    estimate: float
    low: float
    high: float
    n: float


def by_tag(metrics: Mapping[str, Any]) -> dict[str, Measured]:
    """What `metrics.json` says by tag, by its name there; sorted by tag, value and metric."""
    found = {}
    for key in metrics:
        # A name with its count beside it is that of an estimate, whatever a value ends with.
        if (match := NAME.fullmatch(key)) and f"{key}_n" in metrics:
            own = (metrics[key], *(metrics[f"{key}_{end}"] for end in ("low", "high", "n")))
            found[key] = Measured(match[2], match[3], match[1], *own)
    return dict(sorted(found.items(), key=lambda item: item[1][:3]))


def write_by_tag(folder: Path, metrics: Mapping[str, Any]) -> None:
    """`metrics_by_tag.csv`, where anything was measured by tag."""
    if rows := by_tag(metrics):
        write_csv(folder / FILE, [Measured._fields, *rows.values()])
