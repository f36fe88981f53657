"""`python -m mmsafe.dashboard`: a workspace and a report in Weights & Biases, built from code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmsafe.core.declared import Declared
from mmsafe.core.endings import told
from mmsafe.core.errors import UserError


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("mmsafe.dashboard", description="Make a dashboard of the runs in a project.")
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders: show what they measured (default: all that is shipped)"
    )
    parser.add_argument("--project", default="mmsafe", help="as in logger.wandb.project (default: mmsafe)")
    parser.add_argument("--entity", help="user or team that owns the project (default: yours)")
    parser.add_argument("--dry-run", type=Path, metavar="FILE", help="write its JSON instead; no key, no network")
    with told("mmsafe.dashboard"):
        args = parser.parse_args()
        if find_spec("wandb_workspaces") is None:
            raise UserError("wandb-workspaces is not installed; run pip install 'mmsafe[wandb]'")
        for place in _write(args) if args.dry_run else _send(args):
            print(place)


def _write(args: argparse.Namespace) -> list[str]:
    from mmsafe.core.files import write_atomically
    from mmsafe.reporting.wandb_dashboard import as_json

    write_atomically(args.dry_run, as_json(args.entity or "", args.project, _declared(args.runs)))
    return [str(args.dry_run)]


def _declared(folders: Sequence[Path]) -> list[Declared]:
    from mmsafe.reporting.summary import read_runs
    from mmsafe.reporting.wandb_dashboard import shipped

    return [run.declared for run in read_runs(folders)] if folders else shipped()


def _send(args: argparse.Namespace) -> list[str]:
    """Save both; returns their addresses."""
    from mmsafe.reporting.wandb_log import is_offline

    if is_offline():
        raise UserError("no Weights & Biases key: run `wandb login`, or see what would be sent with --dry-run FILE")
    import wandb
    from requests import RequestException

    from mmsafe.reporting.wandb_dashboard import report, workspace

    try:
        entity = args.entity or wandb.Api().default_entity
        if entity is None:
            raise UserError("--entity: name the user or team that owns the project; your key has no default")
        declared = _declared(args.runs)
        return [make(entity, args.project, declared).save().url for make in (workspace, report)]
    except (wandb.errors.Error, RequestException) as error:
        raise UserError(f"Weights & Biases: {' '.join(str(error).split())}") from error


if __name__ == "__main__":
    main()
