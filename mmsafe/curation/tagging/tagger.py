"""The interface of a tagger: what a file in `conf/tagger/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from string import Template
from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.categories import UNKNOWN
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.judges.request import mark, sent, transcript, visible
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

LABEL = "categories"
"""What its work is called in the log."""


@options
class Tagger(ABC):
    """Says of which category a request is."""

    @abstractmethod
    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        """The category of every example, `unknown` where it could be put into none; `model` is that of `model=`."""


@options
class AskingTagger(Tagger):
    """Base of those that ask a model for the name of a category."""

    send_image: bool = True

    @abstractmethod
    def replies(self, questions: Sequence[Example], model: ModelSource) -> list[Response]:
        """What the model says to every question."""

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        """Those that are named; a reply that was cut names none."""
        replies = self.replies([self._question(example, taxonomy) for example in examples], model)
        return [taxonomy.read(reply.text) if reply.finished else UNKNOWN for reply in replies]

    def _question(self, example: Example, taxonomy: Taxonomy) -> Example:
        conversation = visible(transcript(example))
        images = example.images if self.send_image else ()
        text = Template(sent("tagger", "category")).substitute(
            mark=mark(conversation),
            conversation=conversation,
            image="beside this text" if images else "not shown to you",
            categories=taxonomy.listed(),
        )
        return replace(example, turns=(Turn("user", text, (0,) * len(images)),), images=images, responses={})
