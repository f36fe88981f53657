"""What a run wrote down of itself, read back: nothing in it is trusted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError

METRICS = "metrics.json"
ABOUT = "run.json"
JUDGE = "eval/judge"
TRAINED_BY = "trained_by"


def metrics_of(folder: Path) -> dict[str, Any]:
    """The metrics of the run that is finished in `folder`, numbers but for the judge's label.

    Raises `UserError` if they are damaged.
    """
    path = folder / METRICS
    metrics = read_json(path)
    if strange := [name for name, v in metrics.items() if not isinstance(v, str if name == JUDGE else int | float)]:
        raise UserError(f"{path}: is damaged: {strange[0]:.60} is no number; move the folder away")
    return metrics


def read_json(path: Path) -> dict[str, Any]:
    """A record that a run left; raises `UserError` if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); move the folder away, or choose another") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: is damaged or was not written by mmsafe; move the folder away, or choose another")
    return record


def about_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says of a run; empty where there is none. Raises `UserError` if it is damaged."""
    path = folder / ABOUT
    if not path.exists():
        return {}
    about = read_json(path)
    if not isinstance(about.get("config"), dict):
        raise UserError(f"{path}: is damaged or was not written by mmsafe: it has no config; choose another folder")
    return about


def maker_of(path: str | Path | None) -> dict[str, Any]:
    """What the run that wrote the folder `path`, its own or a model in it, says of itself; empty for others."""
    if path is None:
        return {}
    folder = Path(path).expanduser().resolve()
    return about_run(folder) or about_run(folder.parent)


def trained_by(about: Mapping[str, Any]) -> set[str]:
    """Labels of the judges that chose among the responses which a run, or the model that it asked, was trained on."""
    labels = about.get(TRAINED_BY, [])
    return {str(label) for label in labels} if isinstance(labels, list) else set()


def run_options(folder: Path, group: str) -> dict[str, Any]:
    """The options `group` of the training run that wrote `folder`, a run folder or a model in one; empty for others."""
    about = maker_of(folder)
    options = about["config"].get(group, {}) if about else {}
    if not isinstance(options, dict):
        raise UserError(f"{folder}: the run.json of this run is damaged: {group} has no options; move it away")
    return options
