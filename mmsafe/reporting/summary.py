"""Finished runs side by side: grouped over seeds, with intervals and paired differences."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsafe.errors import UserError
from mmsafe.reporting.files import write_atomically


@dataclass(frozen=True)
class Run:
    """One run folder: its config, flattened to dotted names, and its metrics (empty while unfinished)."""

    path: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def seed(self) -> Any:
        """The seed that pairs runs of different groups."""
        return self.config.get("seed")


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with its 95 % Student t interval; `low` and `high` are NaN for fewer than two."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.low) else f"{self.mean:.3f} ± {self.high - self.mean:.3f}"


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Every run folder at or below `folders`, in order of its path."""
    roots = list(folders)
    paths = sorted({path.parent for root in roots for path in root.rglob("run.json")})
    if not paths:
        raise UserError(f"no run.json at or below {', '.join(map(str, roots))}: name folders of runs or sweeps")
    return [_read(path) for path in paths]


def _read(path: Path) -> Run:
    results = path / "metrics.json"
    try:
        config = json.loads((path / "run.json").read_text())["config"]
        metrics = json.loads(results.read_text()) if results.exists() else {}
        return Run(path, dict(_flat(config)), metrics)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: run.json or metrics.json is damaged or not mmsafe's; move the folder away") from error


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by name, or else by the options in which they differ; seeds do not make a group."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key in {key for other in runs for key in other.config}:
            values.setdefault(key, set()).add(json.dumps(run.config.get(key), default=str))
    ignored = ("seed", "name")
    differing = sorted(k for k, seen in values.items() if len(seen) > 1 and k.rpartition(".")[2] not in ignored)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_label(run, differing), []).append(run)
    return groups


def _label(run: Run, differing: Sequence[str]) -> str:
    if run.config.get("name"):
        return str(run.config["name"])
    parts = []
    for key in differing:
        if key in run.config:
            value = str(run.config[key])
            owner, _, option = key.rpartition(".")
            parts.append(f"{owner}={value.rpartition('.')[2]}" if option == "_target_" else f"{key}={value}")
    return " ".join(parts) or "run"


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean with a 95 % Student t interval."""
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * spread
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(first: Sequence[Run], second: Sequence[Run], metric: str) -> Interval | None:
    """`first` minus `second` on the seeds that both have; None where there is no such seed."""
    for run in (*first, *second):
        if sum(run.seed == other.seed for other in (first if run in first else second)) > 1:
            raise UserError(f"{run.path}: another run of its group has the same seed, so they cannot be paired")
    a, b = ({run.seed: run.metrics[metric] for run in runs if metric in run.metrics} for runs in (first, second))
    shared = sorted(set(a) & set(b), key=str)
    return over_seeds([a[seed] - b[seed] for seed in shared]) if shared else None


def write_csv(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """One row per run: group, folder, seed, status and every metric."""
    runs = [(label, run) for label, members in groups.items() for run in members]
    names = sorted({name for _, run in runs for name in run.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "folder", "seed", "status", *names])
    for label, run in runs:
        status = "finished" if run.metrics else "unfinished"
        cells = [_cell(run.metrics.get(name)) for name in names]
        writer.writerow([label, run.path.name, run.seed, status, *cells])
    write_atomically(path, text.getvalue())


def _cell(value: Any) -> Any:
    return "" if value is None else round(value, 6) if isinstance(value, float) else value
