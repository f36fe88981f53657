"""Rewording by a model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmsafe.core.endpoint import Endpoint
from mmsafe.core.options import Count, options
from mmsafe.curation.build.rewording import LABEL, Rewording, request
from mmsafe.curation.build.stage import Row, Site
from mmsafe.curation.served_model import ServedModel
from mmsafe.data.example import Example
from mmsafe.evaluation.judges.request import Prices

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class ServedRewording(ServedModel, Rewording):
    """Asks for one new wording of each request."""

    idle: ClassVar[frozenset[str]] = frozenset((Endpoint.__annotations__ | Prices.__annotations__).keys() - {"model"})
    group: ClassVar[str] = "rewording"
    label: ClassVar[str] = LABEL
    declined: ClassVar[frozenset[int]] = frozenset({400, 422})

    max_tokens: Count = 256

    def plan(self, count: int, rows: Sequence[Row] | None) -> str:
        known = "" if rows is None else f", about {self.cost_text(self.needed(request(row, Path()) for row in rows))}"
        return f"{self.base_url}, model {self.model}: {count} requests with an image{known}"

    def replies(self, requests: Sequence[Example], site: Site) -> list[Response | str]:
        answers = self.answers(requests)
        return [reply if reply.finished or reply.text else "not answered by the endpoint" for reply in answers]
