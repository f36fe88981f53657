"""The options of `mmsafe.inspect`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmsafe.core.errors import UserError
from mmsafe.core.options import Seed, options
from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import Flag
from mmsafe.data.data_source import DataSource
from mmsafe.models.model_source import ModelSource


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
