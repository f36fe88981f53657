"""`python -m mmsafe.inspect data=…`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import sys
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from mmsafe.app import launch
from mmsafe.data.source import DataSource
from mmsafe.errors import UserError
from mmsafe.inspection.flags import Flag
from mmsafe.models.source import ModelSource
from mmsafe.options import Seed, options
from mmsafe.settings import Lengths


@options
class InspectConfig:
    """`conf/inspect.yaml`, typed."""

    data: DataSource
    model: ModelSource
    lengths: Lengths
    splits: Annotated[list[str], Field(min_length=1)] | None
    decode: bool
    samples: Annotated[int, Field(ge=0)]
    seed: Seed
    fail_on: list[Flag]

    def __post_init__(self) -> None:
        if "leaked_look" in self.fail_on and not self.decode:
            raise UserError("fail_on=leaked_look: only decode=true finds images that look alike")


def run(config: InspectConfig, cfg: DictConfig) -> None:
    """Print tables; write `statistics.json`, `rows.csv`, `figures/` and `inspect.html` into the run folder.

    Ends the process with status 1 if rows have a flag of `fail_on`.
    """
    from mmsafe.inspection.report import inspect

    if failed := inspect(config):
        print(f"mmsafe.inspect: fail_on: {failed}", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Entry point."""
    launch("inspect", InspectConfig, run)


if __name__ == "__main__":
    main()
