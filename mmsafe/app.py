"""How every command starts: check, compose, run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import hydra
from omegaconf import DictConfig

from mmsafe.config import conf_dir, typed
from mmsafe.errors import UserError
from mmsafe.preflight import check, report

Root = TypeVar("Root")
BAD_INPUT = 2
INTERRUPTED = 130


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

    try:
        check(command, root, sys.argv[1:])
        folder = str(conf_dir())
    except UserError as error:
        report(error, f"mmsafe.{command}")
        sys.exit(BAD_INPUT)
    hydra.main(version_base="1.3", config_path=folder, config_name=command)(task)()
