"""`python -m mmsafe.doctor [overrides of mmsafe.train]`: what is installed, and whether such a run would fit."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from mmsafe.estimate.doctor_config import DoctorConfig
from mmsafe.runs.app import launch


def run(config: DoctorConfig, cfg: DictConfig) -> None:
    """Print everything; ends the process with status 1 if the run does not fit."""
    from mmsafe.estimate.diagnosis import diagnose

    if not diagnose(config):
        sys.exit(1)


def main() -> None:
    """Entry point."""
    launch("doctor", DoctorConfig, run)


if __name__ == "__main__":
    main()
