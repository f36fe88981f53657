"""What stands behind a number of a report: its runs' values, answers, judge, code, config and command."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmsafe.core.declared import Metric, by_tag
from mmsafe.core.run_record import JUDGE
from mmsafe.reporting.summary import Run, mean_of

COMMAND = re.compile(r"(?:mmsafe\.)?([a-z]+)(?:\.py)?")


class Evidence(NamedTuple):
    """Of one run; `values` by metric, each with its own 95 % interval and its number of prompts."""

    label: str
    facts: Mapping[str, Any]
    command: str
    config: Mapping[str, str]
    values: Mapping[str, str]
    sample: int | None
    """Its number on the page of samples, if it is there."""


def evidence(run: Run, label: str, shown: Sequence[Metric], sample: int | None) -> Evidence:
    """What `run` recorded of itself, and of the metrics that are `shown`, over all prompts and by tag."""
    names = {metric.name for metric in shown}
    keys = [metric.key for metric in shown] + [key for key, row in by_tag(run.metrics).items() if row.metric in names]
    judge = run.metrics.get(JUDGE)
    facts = {
        "judge": f"{judge} ({run.declared.judges[judge]})" if judge in run.declared.judges else judge,
        "commit": run.about.get("git_commit"),
        "seed": run.seed,
        "status": run.status,
    }
    values = {key: _value(run, key) for key in keys if key in run.metrics}
    return Evidence(
        label, facts, command_of(run), {name: as_text(value) for name, value in run.config.items()}, values, sample
    )


def command_of(run: Run) -> str:
    """The command that makes the run again: of a job of a sweep, the job's own."""
    if not run.about.get("command"):
        return "not recorded"
    program, *words = map(str, run.about["command"])
    if program == "mmsafe" and words:
        program, *words = words
    name = COMMAND.fullmatch(program)
    start = ["python", "-m", f"mmsafe.{name[1]}"] if name else [program]
    return shlex.join([*start, *(run.overrides or words)])


def as_text(value: Any) -> str:
    """Words as they are, and other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def positions(runs: Sequence[Run]) -> dict[Path, int]:
    """The number of each run, by its folder."""
    return {run.path: number for number, run in enumerate(runs)}


def _value(run: Run, key: str) -> str:
    count = f", n = {run.metrics[f'{key}_n']:g}" if f"{key}_n" in run.metrics else ""
    return f"{mean_of([run], key)}{count}"
