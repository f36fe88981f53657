"""`python -m mmsafe.doctor [overrides of mmsafe.train]`: what is installed, and whether such a run would fit."""

from __future__ import annotations

import sys
from typing import ClassVar

from omegaconf import DictConfig

from mmsafe.app import launch
from mmsafe.machine import Doctor
from mmsafe.options import options
from mmsafe.train import TrainConfig


@options
class DoctorConfig(TrainConfig):
    """`conf/doctor.yaml`, typed: a training run, and the machine it is meant for."""

    doctor: Doctor
    runs_here: ClassVar[bool] = False


def run(config: DoctorConfig, cfg: DictConfig) -> None:
    """Print everything; ends the process with status 1 if the run does not fit."""
    from mmsafe.diagnosis import diagnose

    if not diagnose(config):
        sys.exit(1)


def main() -> None:
    """Entry point."""
    launch("doctor", DoctorConfig, run)


if __name__ == "__main__":
    main()
