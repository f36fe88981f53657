"""The options of `mmsafe.export`."""

from typing import Annotated, Literal

from pydantic import Field

from mmsafe.core.options import CheckpointName, OutputPath, options


@options
class ExportConfig:
    """`conf/export.yaml`, typed."""

    checkpoint: CheckpointName
    base: CheckpointName | None
    format: Literal["hf", "original"]
    out: OutputPath
    allow_pickle: bool
    push: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")] | None
    push_dry_run: bool
