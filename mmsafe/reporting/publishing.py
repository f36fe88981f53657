"""What a report says of this machine, taken out, so that it can be shown to everybody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.core.run_record import JUDGE
from mmsafe.core.secrets import masked
from mmsafe.reporting.summary import Run

PART = r"[^\s/,;:'\"()\[\]{}<>]+"
ABSOLUTE = re.compile(rf"(?:file://|(?<![\w/.~…]))/{PART}(?:/{PART})*/?")


def without_folders(node: Any) -> Any:
    """A copy of plain data without secrets, in which `…/name` stands for each absolute path; addresses stay."""
    if isinstance(node, Mapping):
        return {key: without_folders(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_folders(value) for value in node]
    return ABSOLUTE.sub(lambda path: f"…/{Path(path[0]).name}", masked(node)) if isinstance(node, str) else node


def public_groups(groups: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The same groups without the folders of this machine; raises `UserError` if no more than those tell them apart."""
    cleaned = {without_folders(name): [_public(run) for run in runs] for name, runs in groups.items()}
    if len(cleaned) < len(groups):
        raise UserError("publish: groups differ in nothing but the folders of their inputs; give the runs names")
    return cleaned


def _public(run: Run) -> Run:
    metrics = {**run.metrics, JUDGE: without_folders(run.metrics[JUDGE])} if JUDGE in run.metrics else run.metrics
    declared = replace(run.declared, judges={without_folders(name): it for name, it in run.declared.judges.items()})
    cleaned = {name: without_folders(getattr(run, name)) for name in ("config", "about", "overrides", "message")}
    return replace(run, metrics=metrics, declared=declared, **cleaned)
