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


def question(example: Example, taxonomy: Taxonomy, *, image: bool = True) -> Example:
    """The prompt by which a model is asked, with the example's image or without."""
    conversation = visible(transcript(example))
    shown = example.image is not None and image
    seen = "beside this text" if shown else "not shown to you"
    text = Template(sent("tagger", "category")).substitute(
        mark=mark(conversation), conversation=conversation, image=seen, categories=taxonomy.listed()
    )
    return replace(
        example, turns=(Turn("user", text, image=shown),), image=example.image if shown else None, responses={}
    )


def named(taxonomy: Taxonomy, reply: Response) -> str:
    """The category that a reply names; a reply that was cut names none."""
    return taxonomy.read(reply.text) if reply.finished else UNKNOWN
