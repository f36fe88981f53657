"""How every command starts: check, compose, run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmsafe import ranks
from mmsafe.config import conf_dir, typed
from mmsafe.errors import UserError
from mmsafe.preflight import check, report
from mmsafe.settings import Trainer

Root = TypeVar("Root")
BAD_INPUT = 2
INTERRUPTED = 130


def on_all_devices(trainer: Trainer) -> float:
    """Run this job again as one process per device of this machine; returns what it found.

    Ends the process with the status of the processes if they fail; raises `UserError` if other machines are needed.
    """
    if trainer.num_nodes > 1:
        raise UserError("trainer.num_nodes: start the processes by torchrun on every machine, or by SLURM")
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    words = list(hydra_config.overrides.task)
    for source in hydra_config.runtime.config_sources:
        if source.provider == "command-line":
            words = ["--config-dir", source.path, *words]
    status = ranks.torchrun(hydra_config.job.name, words, folder, trainer.devices)
    if status:
        sys.exit(status if status > 0 else 128 - status)
    metrics = json.loads((folder / "metrics.json").read_text())
    return float(metrics.get("eval/safety_rate", -metrics["train/loss"]))


def launch(command: str, root: type[Root], job: Callable[[Root, DictConfig], object]) -> None:
    """Run `job` with the config `conf/<command>.yaml` and the overrides of this process's command line.

    Ends the process with status 2 and one line on bad input.
    """

    def task(cfg: DictConfig) -> object:
        try:
            return job(typed(cfg, root), cfg)
        except UserError as error:
            report(error, f"mmsafe.{command}")
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    if not ranks.is_first():
        sys.argv += ranks.QUIET
    try:
        check(command, root, sys.argv[1:])
        folder = str(conf_dir())
    except UserError as error:
        report(error, f"mmsafe.{command}")
        sys.exit(BAD_INPUT)
    hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()
