"""`python -m mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from mmsafe import ranks
from mmsafe.app import launch, on_all_devices
from mmsafe.data.source import DataSource
from mmsafe.models.source import ModelSource
from mmsafe.options import Seed, options
from mmsafe.settings import Devices, Generation, Lengths

log = logging.getLogger(__name__)


@options
class BlindConfig(Devices):
    """`conf/blind.yaml`, typed."""

    seed: Seed
    data: DataSource
    model: ModelSource
    generation: Generation
    lengths: Lengths


def run(config: BlindConfig, cfg: DictConfig) -> Path:
    """Write `blind.jsonl` (`id`, `blind`) into the run folder, whose path is returned.

    Training finds the same responses in the cache.
    """
    if config.processes > 1 and not ranks.started():
        return on_all_devices(config) / "blind.jsonl"
    from mmsafe.pipeline import blind

    return blind(config, cfg)


def main() -> None:
    """Entry point."""
    launch("blind", BlindConfig, run)


if __name__ == "__main__":
    main()
