"""`mmsafe.dashboard`: its options, and what it does with them."""

from importlib.util import find_spec
from typing import ClassVar

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
    from mmsafe.core.files import write_atomically
    from mmsafe.reporting.summary import read_runs
    from mmsafe.reporting.wandb_dashboard import as_json, report, shipped, workspace
    from mmsafe.reporting.wandb_log import is_offline

    if config.out is None and is_offline():
        raise UserError("no Weights & Biases key: run `wandb login`, or see what would be sent with out=FILE")
    declared = [one.declared for one in read_runs(config.runs)] if config.runs else shipped()
    if config.out is not None:
        write_atomically(config.out, as_json(config.entity or "", config.project, declared))
        show_results(config.out)
        return
    import wandb
    from requests import RequestException

    try:
        entity = config.entity or wandb.Api().default_entity
        if entity is None:
            raise UserError("entity: name the user or team that owns the project; your key has no default")
        addresses = [make(entity, config.project, declared).save().url for make in (workspace, report)]
    except (wandb.errors.Error, RequestException) as error:
        raise UserError(f"Weights & Biases: {' '.join(str(error).split())}") from error
    for address in addresses:
        show_results(address)
