"""The exact tagger of the micro-world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.curation.tagging.tagger import Tagger
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.example import Example
from mmsafe.models.model_source import ModelSource


@options
class RulesTagger(Tagger):
    """What makes a request of the micro-world harmful: the kind of dangerous thing that its image shows."""

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        return [taxonomy.read(_truth(example.tags)) for example in examples]


def _truth(tags: Mapping[str, str]) -> str:
    if "harmful" not in tags:
        raise UserError("tagger=rules: is of data=microworld, where the harm is known; choose tagger=endpoint or local")
    return tags["entity_type"] if tags["harmful"] == "yes" else "harmless"
