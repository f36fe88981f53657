"""`python -m mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.runs.app import launch, on_all_devices

log = logging.getLogger(__name__)


def run(config: BlindConfig, cfg: DictConfig) -> Path:
    """Write `blind.jsonl` (`id`, `blind`) into the run folder, whose path is returned.

    Training finds the same responses in the cache.
    """
    if config.processes > 1 and not ranks.started():
        return on_all_devices(config) / "blind.jsonl"
    from mmsafe.experiment.blind_job import blind

    return blind(config, cfg)


def main() -> None:
    """Entry point."""
    launch("blind", BlindConfig, run)


if __name__ == "__main__":
    main()
