"""`python -m mmsafe.inspect data=…`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from mmsafe.curation.inspection.inspect_config import InspectConfig
from mmsafe.runs.app import launch


def run(config: InspectConfig, cfg: DictConfig) -> None:
    """Print tables; write `statistics.json`, `rows.csv`, `figures/` and `inspect.html` into the run folder.

    Ends the process with status 1 if rows have a flag of `fail_on`.
    """
    from mmsafe.curation.inspection.inspecting import inspect

    if failed := inspect(config):
        print(f"mmsafe.inspect: fail_on: {failed}", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Entry point."""
    launch("inspect", InspectConfig, run)


if __name__ == "__main__":
    main()
