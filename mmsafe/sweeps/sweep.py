"""What the sweeper does: from the command's words to jobs, and from their results to an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict, read_write

from mmsafe.core.endings import BAD_INPUT, report
from mmsafe.core.errors import UserError
from mmsafe.reporting.table import print_tables
from mmsafe.runs.expansion import plan
from mmsafe.runs.hydra_files import save_config
from mmsafe.runs.overrides import as_given, to_folder
from mmsafe.sweeps.results import SWEEP, recorded, table_of_results


def with_fixed_folder(config: DictConfig) -> DictConfig:
    """The config of a sweep, whose jobs are told its folder: the words of a job alone would give another name."""
    folder = Path(config.hydra.sweep.dir)
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(to_folder("hydra.sweep.dir", folder))
    return config


def sweep(config: DictConfig, launcher: Launcher, arguments: Sequence[str]) -> Sequence[JobReturn]:
    """Run the jobs that the words `arguments` ask for, print their results, and return what came of each.

    Ends the process with status 1 if any did not finish, naming them, and with 2 on bad input.
    """
    command, folder = f"mmsafe.{config.hydra.job.name}", Path(config.hydra.sweep.dir)
    save_config(config, "multirun.yaml", folder)
    try:
        asked = plan(config.hydra.job.config_name, [*as_given(config.hydra.overrides.hydra), *arguments])
        if asked.is_search:
            from mmsafe.sweeps.search import search

            returns: Sequence[JobReturn] = search(config, asked, launcher)
        else:
            (folder / SWEEP).unlink(missing_ok=True)
            returns = launcher.launch(asked.jobs(), initial_job_idx=0)
        if jobs := recorded(folder):  # another launcher keeps none
            print_tables([table_of_results(folder, jobs)])
    except UserError as error:
        report(str(error), command)
        sys.exit(BAD_INPUT)
    if failed := [returned for returned in returns if returned.status != JobStatus.COMPLETED]:
        named = ", ".join(str(returned.task_name) for returned in failed)
        print(f"{command}: {len(failed)} of {len(returns)} jobs did not finish: {named}", file=sys.stderr)
        sys.exit(1)
    return returns
