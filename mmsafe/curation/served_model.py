"""Questions to a model behind an OpenAI-compatible chat endpoint: to tag examples, and to word requests anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmsafe.core.cache import cache_dir
from mmsafe.core.chat_client import Chat, NoAnswerError, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.options import Count, NonNegative, options
from mmsafe.data.decoding import ImageFormat, user_message
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.judges.request import Prices, Spent, image_tokens

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

log = logging.getLogger(__name__)
FILTERED = "content_filter"


@options
class ServedModel(Endpoint, Prices):
    """Replies are kept in the cache, each as soon as it is there."""

    group: ClassVar[str]
    """The option group that chooses it."""
    label: ClassVar[str]
    """What its work is called in the log."""
    declined: ClassVar[frozenset[int]] = frozenset()
    """Statuses that answer one request: asked again, it would be answered so again."""
    expected_image_side: ClassVar[int] = 512
    """Pixels, for the estimate of tokens where images are not scaled."""

    max_tokens: Count
    """Longest reply."""
    temperature: NonNegative | None = 0.0
    """null: not sent, for models that do not take it."""

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)
        Prices.__post_init__(self)

    @property
    def image_form(self) -> tuple[ImageFormat, int | None]:
        """How images are sent: format, and the pixels to which larger ones are scaled down."""
        return "jpeg", None

    def answers(self, questions: Sequence[Example]) -> list[Response]:
        """The reply to every question of one turn; one that is declined or filtered is empty, and not finished.

        Raises `UserError` if a request got no answer, after all others were answered and kept.
        """
        from mmsafe.generation.responses import kept_responses

        keys = [question.prompt_key() for question in questions]
        by_key = dict(zip(keys, questions, strict=True))

        def make(claimed: list[str]) -> Iterator[list[tuple[str, Response]]]:
            return self._new_replies({key: by_key[key] for key in claimed})

        image_format, side = self.image_form
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        settings |= {"image_max_side": side, "image_format": image_format}
        folder = cache_dir("responses") / digest({self.group: self.model, **settings})
        replies = kept_responses(folder, keys, make, len(by_key), self.label)
        return [replies[key] for key in keys]

    def needed(self, questions: Iterable[Example]) -> Spent:
        """About what these questions take at most."""
        spent = Spent()
        for question in questions:
            spent.add(self._input_tokens(question), self.max_tokens)
        return spent

    def _new_replies(self, questions: Mapping[str, Example]) -> Iterator[list[tuple[str, Response]]]:
        from mmsafe.generation.responses import served_responses

        needed, spent = self.needed(questions.values()), Spent()
        log.info("%s: about %s at most", self.label, self.cost_text(needed))
        self.refuse_cost(needed, self.label, self.group)

        async def ask(chat: Chat, question: Example) -> Response:
            return await self._reply(chat, question, spent)

        try:
            yield from served_responses(self, ask, questions, self.label)
        finally:
            log.info("%s: took %s", self.label, self.cost_text(spent))

    async def _reply(self, chat: Chat, question: Example, spent: Spent) -> Response:
        from mmsafe.generation.generate import Response

        (turn,) = question.turns
        message = await asyncio.to_thread(user_message, turn.text, question.images, *self.image_form)
        sampling: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            tokens = self._input_tokens(question) + self.max_tokens
            answer = await chat.complete([message], tokens, max_tokens=self.max_tokens, **sampling)
        except NoAnswerError as error:
            if error.code != FILTERED and error.status not in self.declined:
                raise
            return Response("", finished=False)
        spent.add(answer.input_tokens, answer.output_tokens)
        if answer.refusal is not None or answer.finish_reason == FILTERED:
            return Response("", finished=False)
        return Response(answer.text or "", finished=answer.finish_reason != "length")

    def _input_tokens(self, question: Example) -> int:
        """About how many a request takes."""
        of_images = image_tokens(self.image_form[1] or self.expected_image_side) * len(question.images)
        return estimated_tokens(question.turns[-1].text) + of_images
