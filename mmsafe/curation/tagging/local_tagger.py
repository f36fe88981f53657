"""The model of `model=` as a tagger, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from mmsafe.core.options import Count, options
from mmsafe.core.settings import Evaluation
from mmsafe.curation.tagging.tagger import LABEL, Tagger, named, question
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource


@options
class LocalTagger(Tagger):
    """Greedy, with our own generation; replies are kept batch by batch and found again in the cache."""

    max_new_tokens: Count = 24
    """Longest reply; the name of a category has to fit."""
    batch_size: Count = 8
    """Requests sorted together; does not change the result."""

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        from mmsafe.generation.responses import responses
        from mmsafe.models.loading import on_device

        settings = Evaluation(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size).generation()
        asked = [question(example, taxonomy) for example in examples]
        replies = responses(on_device(model.load()), asked, settings, LABEL)
        return [named(taxonomy, reply) for reply in replies]
