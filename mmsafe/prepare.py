"""`python -m mmsafe.prepare`: a data set of any reader as one that `datasets` and TRL load as it is."""

from __future__ import annotations

from typing import Annotated, Literal

from omegaconf import DictConfig
from pydantic import ByteSize, Field

from mmsafe.core.config import resolved
from mmsafe.core.options import OutputPath, options
from mmsafe.data.data_source import DataSource
from mmsafe.runs.app import launch

OF_LOADING = ("batch_size", "num_workers", "group_by_length")
"""Options of the data that change no row."""


@options
class PrepareConfig:
    """`conf/prepare.yaml`, typed."""

    data: DataSource
    out: OutputPath
    format: Literal["parquet", "arrow"]
    images: Literal["embedded", "referenced"]
    max_shard_size: Annotated[ByteSize, Field(gt=0)]
    splits: Annotated[list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]], Field(min_length=1)] | None


def run(config: PrepareConfig, cfg: DictConfig) -> None:
    """Write `config.out`, which appears only when it is complete."""
    from mmsafe.curation.preparation.preparing import Request, prepare

    settings = {key: value for key, value in resolved(cfg).items() if key != "out"}
    settings["data"] = {key: value for key, value in settings["data"].items() if key not in OF_LOADING}
    request = Request(config.data, config.splits, config.format, config.images, config.max_shard_size, settings)
    prepare(request, config.out)


def main() -> None:
    """Entry point."""
    launch("prepare", PrepareConfig, run)


if __name__ == "__main__":
    main()
