"""`python -m mmsafe.compare a=RUN b=RUN`: what changed from one run to another, and whether that could be chance."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmsafe.app import launch
from mmsafe.options import InputName, Share, options


@options
class CompareConfig:
    """`conf/compare.yaml`, typed."""

    a: InputName
    b: InputName
    max_unpaired: Share


def run(config: CompareConfig, cfg: DictConfig) -> None:
    """Print the comparison and write it to `comparison.json`."""
    from mmsafe.evaluation.comparison import compare, read_judged_run
    from mmsafe.reporting.comparison_table import comparison_table
    from mmsafe.reporting.files import write_record
    from mmsafe.reporting.table import print_tables

    a, b = (read_judged_run(Path(name)) for name in (config.a, config.b))
    found = compare(a, b, config.max_unpaired)
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_record(folder / "comparison.json", {"a": config.a, "b": config.b, **found.as_json()})
    print_tables([comparison_table(found, config.a, config.b)])


def main() -> None:
    """Entry point."""
    launch("compare", CompareConfig, run)


if __name__ == "__main__":
    main()
