"""The exact tagger of the micro-world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmsafe.data.example import Example
from mmsafe.errors import UserError
from mmsafe.models.source import ModelSource
from mmsafe.options import options
from mmsafe.tagging.tagger import Tagger
from mmsafe.tagging.taxonomy import Taxonomy


@options
class RulesTagger(Tagger):
    """What makes a request of the micro-world harmful: the kind of dangerous thing that its image shows."""

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        return [taxonomy.read(_truth(example.tags)) for example in examples]


def _truth(tags: Mapping[str, str]) -> str:
    if "harmful" not in tags:
        raise UserError("tagger=rules: is of data=microworld, where the harm is known; choose tagger=endpoint or local")
    return tags["entity_type"] if tags["harmful"] == "yes" else "harmless"
