"""The options of `mmsafe.prepare`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field

from mmsafe.core.options import OutputPath, options
from mmsafe.data.data_source import DataSource


@options
class PrepareConfig:
    """`conf/prepare.yaml`, typed."""

    data: DataSource
    out: OutputPath
    format: Literal["parquet", "arrow"]
    images: Literal["embedded", "referenced"]
    max_shard_size: Annotated[ByteSize, Field(gt=0)]
    splits: Annotated[list[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]], Field(min_length=1)] | None
