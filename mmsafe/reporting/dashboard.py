"""`mmsafe.dashboard`: its options, and what it does with them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

from mmsafe.core.declared import Declared
from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
from mmsafe.core.options import InputPath, OutputPath, options
from mmsafe.runs.run_context import RunContext


@options
class DashboardConfig:
    """`conf/dashboard.yaml`, typed."""

    project: str
    entity: str | None
    runs: list[InputPath]
    out: OutputPath | None
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {
        "": "runs={}",
        "--project": "project={}",
        "--entity": "entity={}",
        "--dry-run": "out={}",
    }


def make_dashboard(config: DashboardConfig, run: RunContext) -> None:
    """Save a workspace and a report and print their addresses; or write to `config.out` what would be sent."""
    if find_spec("wandb_workspaces") is None:
        raise UserError("wandb-workspaces is not installed; run pip install 'mmsafe[wandb]'")
    if config.out is None:
        for address in _send(config):
            show_results(address)
        return
    from mmsafe.core.files import write_atomically
    from mmsafe.reporting.wandb_dashboard import as_json

    write_atomically(config.out, as_json(config.entity or "", config.project, _declared(config)))
    show_results(config.out)


def _declared(config: DashboardConfig) -> list[Declared]:
    """What the runs declare that are named, else what all shipped benchmarks do."""
    from mmsafe.reporting.summary import read_runs
    from mmsafe.reporting.wandb_dashboard import shipped

    return [run.declared for run in read_runs(config.runs)] if config.runs else shipped()


def _send(config: DashboardConfig) -> list[str]:
    """Save both; returns their addresses."""
    from mmsafe.reporting.wandb_log import is_offline

    if is_offline():
        raise UserError("no Weights & Biases key: run `wandb login`, or see what would be sent with out=FILE")
    import wandb
    from requests import RequestException

    from mmsafe.reporting.wandb_dashboard import report, workspace

    try:
        entity = config.entity or wandb.Api().default_entity
        if entity is None:
            raise UserError("entity: name the user or team that owns the project; your key has no default")
        declared = _declared(config)
        return [make(entity, config.project, declared).save().url for make in (workspace, report)]
    except (wandb.errors.Error, RequestException) as error:
        raise UserError(f"Weights & Biases: {' '.join(str(error).split())}") from error
