"""The model of `model=` as a tagger, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsafe.core.options import Count, options
from mmsafe.core.settings import Evaluation
from mmsafe.curation.tagging.tagger import LABEL, AskingTagger
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class LocalTagger(AskingTagger):
    """Greedy, with our own generation; replies are kept batch by batch and found again in the cache."""

    max_new_tokens: Count = 24
    """Longest reply; the name of a category has to fit."""
    batch_size: Count = 8
    """Requests sorted together; does not change the result."""

    def replies(self, questions: Sequence[Example], model: ModelSource) -> list[Response]:
        from mmsafe.generation.responses import responses
        from mmsafe.models.loading import on_device

        settings = Evaluation(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size).generation()
        return responses(on_device(model.load()), questions, settings, LABEL)
