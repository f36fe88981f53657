"""The options of `mmsafe.chat`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mmsafe.core.options import Count, InputName, options
from mmsafe.core.settings import Evaluation
from mmsafe.models.model_source import ModelSource


@options
class ChatConfig:
    """`conf/chat.yaml`, typed."""

    checkpoint: InputName | None
    against: InputName | None
    compare: bool
    ui: Literal["terminal", "web"]
    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    max_length: Count
    evaluation: Evaluation
    model: ModelSource
    runs_here: ClassVar[bool] = False
