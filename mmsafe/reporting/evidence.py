"""What stands behind a number of a report: its runs' values, answers, judge, code, config and command."""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from mmsafe.core.declared import Metric, by_tag
from mmsafe.reporting.summary import Run, mean_of

COMMAND = re.compile(r"(?:mmsafe\.)?([a-z]+)(?:\.py)?")
NOT_SHOWN = ("config_hash", "command")


def evidence(run: Run, label: str, shown: Sequence[Metric], sample: int | None) -> dict[str, Any]:
    """What `run` recorded of itself, and its values of `shown` metrics, over all prompts and by tag.

    `sample` is its number on the page of samples, if it is there.
    """
    names = {metric.name for metric in shown}
    keys = [metric.key for metric in shown if metric.key in run.metrics]
    keys += [key for key, row in by_tag(run.metrics).items() if row.metric in names]
    counts = {key: f", n = {run.metrics[f'{key}_n']:g}" for key in keys if f"{key}_n" in run.metrics}
    facts = {"seed": run.seed, "status": run.status, **run.about}
    facts = {it: value for it, value in facts.items() if it not in NOT_SHOWN and not it.startswith("parameters.")}
    return {
        "label": label,
        "measured": {key: f"{mean_of([run], key)}{counts.get(key, '')}" for key in keys},
        "judged": run.declared.judged_by([run.metrics]) or "nothing was judged",
        "commit": run.about.get("git_commit") or "not recorded",
        "command": command_of(run),
        "facts": {it: as_text(value) for it, value in facts.items()},
        "config": {it: as_text(value) for it, value in run.config.items()},
        "sample": sample,
    }


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
