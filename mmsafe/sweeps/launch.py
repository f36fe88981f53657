"""What the launcher does with the overrides of jobs: folders, processes, results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from mmsafe.core.config import built, without_hydra
from mmsafe.core.secrets import masked
from mmsafe.runs.expansion import parsed
from mmsafe.runs.launch_options import LocalLauncher
from mmsafe.runs.launchers import about_devices
from mmsafe.runs.overrides import as_given, to_folder
from mmsafe.runs.run_folder import score
from mmsafe.sweeps.board import Board
from mmsafe.sweeps.job import Job
from mmsafe.sweeps.local_launcher import LocalJobs
from mmsafe.sweeps.naming import job_name
from mmsafe.sweeps.results import entries, record, recorded, together, write_results


class JobFailedError(Exception):
    """A job of a sweep ended without its metrics."""


def launch(config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Run jobs of the sweep `config`, and write what came of them into its folder.

    Ends the process with status 143 or 130 when SIGTERM or SIGINT stopped it.
    """
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    options = built(OmegaConf.to_container(config.launcher, resolve=True), "launcher")
    assert isinstance(options, LocalLauncher)
    pairs = [_job(config, loader, list(overrides), folder) for overrides in job_overrides]
    jobs = [job for job, _ in pairs]
    before = recorded(folder)
    runs = LocalJobs(jobs, options)
    with Board(jobs) as board:
        stopped_by = runs.run(board.update)
    found = together(before, entries(jobs))
    record(folder, found)
    write_results(folder, found)
    if stopped_by:
        print(f"mmsafe.{config.hydra.job.name}: stopped; the same command continues {folder}", file=sys.stderr)
        sys.exit(128 + stopped_by)
    return [_returned(job, cfg) for job, cfg in pairs]


def _job(config: DictConfig, loader: ConfigLoader, words: list[str], folder: Path) -> tuple[Job, DictConfig]:
    cfg = loader.load_sweep_config(config, words)
    given = parsed(config.hydra.overrides.task, loader)
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
    own = [] if config_name == name else ["--config-name", config_name]
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            own += ["--config-dir", source.path]
    of_sweeps = ("hydra.sweep", "hydra.launcher", "hydra.mode", "hydra.run", "hydra/launcher", "hydra/sweeper")
    hydra = [word for word in as_given(config.hydra.overrides.hydra) if not word.lstrip("+~").startswith(of_sweeps)]
    return [
        *(sys.executable, "-m", f"mmsafe.{name}", *own, *hydra, *words),
        *("hydra.mode=RUN", to_folder("hydra.run.dir", folder)),
    ]


def _returned(job: Job, cfg: DictConfig) -> JobReturn:
    """For Hydra's sweepers: the score of a finished job, and an exception where another one's is asked for."""
    value: Any = (
        score(job.folder) if job.state == "finished" else JobFailedError(f"{job.name}: {job.message or job.state}")
    )
    returned = JobReturn(
        overrides=[f"{key}={text}" for key, text in job.overrides.items()],
        cfg=without_hydra(cfg),
        hydra_cfg=OmegaConf.masked_copy(cfg, "hydra"),
        working_dir=str(job.folder),
        task_name=job.name,
        status=JobStatus.COMPLETED if job.state == "finished" else JobStatus.FAILED,
    )
    returned.return_value = value
    return returned
