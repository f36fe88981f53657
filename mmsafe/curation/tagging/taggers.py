"""The taggers: a model behind an endpoint, the model of `model=`, and the rule of the micro-world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, options
from mmsafe.core.settings import Evaluation
from mmsafe.curation.served_model import ServedModel
from mmsafe.curation.tagging.tagger import LABEL, AskingTagger, Tagger
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.decoding import ImageFormat
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class ServedTagger(ServedModel, AskingTagger):
    """Shows conversation and image to a model behind a chat endpoint and asks for the name of a category."""

    group: ClassVar[str] = "tagger"
    label: ClassVar[str] = LABEL

    max_tokens: Count = 32
    image_max_side: Count = 512
    image_format: ImageFormat = "jpeg"

    @property
    def image_form(self) -> tuple[ImageFormat, int | None]:
        return self.image_format, self.image_max_side

    def replies(self, questions: Sequence[Example], model: ModelSource) -> list[Response]:
        return self.answers(questions)


@options
class LocalTagger(AskingTagger):
    """Greedy, with our own generation; replies are kept batch by batch and found again in the cache."""

    max_new_tokens: Count = 24
    batch_size: Count = 8

    def replies(self, questions: Sequence[Example], model: ModelSource) -> list[Response]:
        from mmsafe.generation.responses import responses
        from mmsafe.models.loading import on_device

        settings = Evaluation(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size).generation()
        return responses(on_device(model.load()), questions, settings, LABEL)


@options
class RulesTagger(Tagger):
    """What makes a request of the micro-world harmful: the kind of dangerous thing that its image shows."""

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        if any("harmful" not in example.tags for example in examples):
            known = "is of data=microworld, where the harm is known"
            raise UserError(f"tagger=rules: {known}; choose tagger=endpoint or local")
        tags = [example.tags for example in examples]
        return [taxonomy.read(facts["entity_type"] if facts["harmful"] == "yes" else "harmless") for facts in tags]
