"""A model behind an OpenAI-compatible chat endpoint as a tagger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.options import Count, options
from mmsafe.curation.served_model import ServedModel
from mmsafe.curation.tagging.tagger import LABEL, AskingTagger
from mmsafe.data.decoding import ImageFormat
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class ServedTagger(ServedModel, AskingTagger):
    """Shows conversation and image to a model and asks for the name of a category."""

    group: ClassVar[str] = "tagger"
    label: ClassVar[str] = LABEL

    max_tokens: Count = 32
    """Longest reply; the name of a category has to fit."""
    image_max_side: Count = 512
    """Pixels; larger images are scaled down."""
    image_format: ImageFormat = "jpeg"

    @property
    def image_form(self) -> tuple[ImageFormat, int | None]:
        """As the options say."""
        return self.image_format, self.image_max_side

    def replies(self, questions: Sequence[Example], model: ModelSource) -> list[Response]:
        return self.answers(questions)
