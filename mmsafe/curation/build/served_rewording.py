"""Rewording by a model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from mmsafe.core.chat_client import Chat, NoAnswerError, ask_all, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, NonNegative, options
from mmsafe.curation.build.rewording import Rewording, RewordingReply, request
from mmsafe.curation.build.stage import Row, Site
from mmsafe.data.decoding import image_part
from mmsafe.data.images import FileImage

IMAGE_TOKENS = 600
"""About so many for an image of 500 pixels, for limits and plans."""
FILTERED = "content_filter"
BAD_REQUEST = {400, 422}
"""Statuses of one request that is not taken, as by a content filter: asked again, it would be so again."""


@options
class ServedRewording(Endpoint, Rewording):
    """Asks for one new wording of each request."""

    idle: ClassVar[frozenset[str]] = frozenset(Endpoint.__annotations__) - {"model"}

    max_tokens: Count = 256
    """Longest reply."""
    temperature: NonNegative | None = 0.0
    """null: not sent, for models that do not take it."""

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)

    def plan(self, count: int, rows: Sequence[Row] | None) -> str:
        known = "" if rows is None else f", about {sum(map(self._tokens, rows)):,} tokens in and out"
        return f"{self.base_url}, model {self.model}: {count} requests with an image{known}"

    def replies(self, rows: Sequence[Row], site: Site) -> Iterator[list[tuple[int, RewordingReply]]]:
        failed: list[NoAnswerError] = []
        for position, found in ask_all(self, partial(self._ask, site=site), rows):
            if not isinstance(found, NoAnswerError):
                yield [(position, found)]
            elif found.code == FILTERED or found.status in BAD_REQUEST:
                yield [(position, RewordingReply("", reason="not answered by the endpoint"))]
            else:
                failed.append(found)
        if failed:
            raise UserError(
                f"{self.base_url}: {len(failed)} of {len(rows)} requests got no answer ({failed[0]}); the others are "
                "kept, and the same command asks for these alone"
            )

    async def _ask(self, chat: Chat, row: Row, site: Site) -> RewordingReply:
        image = await asyncio.to_thread(image_part, FileImage(site.images / row["image"]), "jpeg")
        message = {"role": "user", "content": [image, {"type": "text", "text": request(row)}]}
        sampling: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        answer = await chat.complete([message], self._tokens(row), max_tokens=self.max_tokens, **sampling)
        if answer.text is None or answer.refusal or answer.finish_reason == FILTERED:
            return RewordingReply("", reason="not answered by the endpoint")
        return RewordingReply(answer.text, answer.finish_reason != "length")

    def _tokens(self, row: Row) -> int:
        return estimated_tokens(request(row)) + IMAGE_TOKENS + self.max_tokens
