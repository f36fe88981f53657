"""The options of `mmsafe.tag`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.curation.tagging.tagger import Tagger
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.data_source import DataSource
from mmsafe.models.model_source import ModelSource

DataPart = Literal["train", "holdout", "test"]


@options
class TagConfig:
    """`conf/tag.yaml`, typed."""

    data: DataSource
    parts: Annotated[list[DataPart], Field(min_length=1)]
    taxonomy: Taxonomy
    tagger: Tagger
    model: ModelSource
