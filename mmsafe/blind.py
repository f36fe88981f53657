"""`python -m mmsafe.blind`: generate the blind responses of a data set, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from mmsafe.app import launch
from mmsafe.data.source import DataSource
from mmsafe.models.source import ModelSource
from mmsafe.options import options
from mmsafe.settings import Generation

log = logging.getLogger(__name__)


@options
class BlindConfig:
    """`conf/blind.yaml`, typed."""

    seed: Annotated[int, Field(ge=0)]
    data: DataSource
    model: ModelSource
    generation: Generation


def run(config: BlindConfig, cfg: DictConfig) -> Path:
    """Write `blind.jsonl` (`id`, `blind`) into the run folder; training finds the same responses in the cache."""
    from mmsafe.pipeline import blind

    return blind(config, cfg)


def main() -> None:
    """Entry point."""
    launch("blind", BlindConfig, run)


if __name__ == "__main__":
    main()
