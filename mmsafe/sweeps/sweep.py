"""What sweeper and launcher do: from the command's words to jobs, and from their results to an exit status."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mmsafe.core.config import without_hydra
from mmsafe.core.endings import BAD_INPUT, report
from mmsafe.core.errors import UserError
from mmsafe.core.secrets import masked
from mmsafe.reporting.table import print_tables
from mmsafe.runs.expansion import plan
from mmsafe.runs.hydra_state import as_given, save_config
from mmsafe.runs.launchers import about_devices, local_launcher
from mmsafe.runs.overrides import parsed, to_folder
from mmsafe.runs.run_folder import score
from mmsafe.sweeps.board import board
from mmsafe.sweeps.job import Job, job_name
from mmsafe.sweeps.local_launcher import LocalJobs
from mmsafe.sweeps.results import SWEEP, record, recorded, table_of_results

OF_SWEEPS = ("hydra.sweep", "hydra.launcher", "hydra.mode", "hydra.run", "hydra/launcher", "hydra/sweeper")
"""What the words about Hydra begin with that a job is not given."""


class JobFailedError(Exception):
    """A job of a sweep ended without its metrics."""


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
        sweep_plan = plan(config.hydra.job.config_name, [*as_given(config.hydra.overrides.hydra), *arguments])
        if sweep_plan.is_search:
            from mmsafe.sweeps.search import search

            returns: Sequence[JobReturn] = search(config, sweep_plan, launcher)
        else:
            (folder / SWEEP).unlink(missing_ok=True)
            returns = launcher.launch(sweep_plan.jobs(), initial_job_idx=0)
        if entries := recorded(folder):  # another launcher keeps none
            print_tables([table_of_results(folder, entries)])
    except UserError as error:
        report(str(error), command)
        sys.exit(BAD_INPUT)
    if failed := [returned for returned in returns if returned.status != JobStatus.COMPLETED]:
        named = ", ".join(str(returned.task_name) for returned in failed)
        print(f"{command}: {len(failed)} of {len(returns)} jobs did not finish: {named}", file=sys.stderr)
        sys.exit(1)
    return returns


def launch(config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Run jobs of the sweep `config` on this machine, and write what came of them into its folder.

    Ends the process with status 143 or 130 when SIGTERM or SIGINT stopped it.
    """
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [_job(config, loader, list(overrides), folder) for overrides in job_overrides]
    jobs = [job for job, _ in pairs]
    before = recorded(folder)
    with board(jobs) as show:
        stopped_by = LocalJobs(jobs, local_launcher(config)).run(show)
    record(folder, before, jobs)
    if stopped_by:
        print(f"mmsafe.{config.hydra.job.name}: stopped; the same command continues {folder}", file=sys.stderr)
        sys.exit(128 + stopped_by)
    return [_returned(job, cfg) for job, cfg in pairs]


def _job(config: DictConfig, loader: ConfigLoader, words: list[str], folder: Path) -> tuple[Job, DictConfig]:
    cfg = loader.load_sweep_config(config, words)
    given = parsed(config.hydra.overrides.task)
    constant = {word.get_key_element() for word in given if not word.is_sweep_override()}
    varying = masked({key: value for key, _, value in (word.partition("=") for word in words) if key not in constant})
    run = folder / job_name(varying, cfg)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(run.absolute())
    return Job(
        folder=run,
        command=_command(config, words, run),
        overrides=varying,
        devices=about_devices(cfg, "devices")[1],
        max_steps=OmegaConf.select(cfg, "trainer.max_steps", default=-1),
        max_epochs=OmegaConf.select(cfg, "trainer.max_epochs", default=1),
    ), cfg


def _command(config: DictConfig, words: list[str], folder: Path) -> list[str]:
    """What a user would type for this job alone."""
    name, config_name = config.hydra.job.name, config.hydra.job.config_name
    extra = [] if config_name == name else ["--config-name", config_name]
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            extra += ["--config-dir", source.path]
    extra += [word for word in as_given(config.hydra.overrides.hydra) if not word.lstrip("+~").startswith(OF_SWEEPS)]
    place = ["hydra.mode=RUN", to_folder("hydra.run.dir", folder)]
    return [sys.executable, "-m", f"mmsafe.{name}", *extra, *words, *place]


def _returned(job: Job, cfg: DictConfig) -> JobReturn:
    """For Hydra's sweepers: the score of a finished job, and an exception where another one's is asked for."""
    finished = job.state == "finished"
    returned = JobReturn(
        overrides=[f"{key}={text}" for key, text in job.overrides.items()],
        cfg=without_hydra(cfg),
        hydra_cfg=OmegaConf.masked_copy(cfg, "hydra"),
        working_dir=str(job.folder),
        task_name=job.name,
        status=JobStatus.COMPLETED if finished else JobStatus.FAILED,
    )
    returned.return_value = score(job.folder) if finished else JobFailedError(f"{job.name}: {job.message or job.state}")
    return returned
