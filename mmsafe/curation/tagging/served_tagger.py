"""A model behind an OpenAI-compatible chat endpoint as a tagger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsafe.core.cache import cache_dir
from mmsafe.core.chat_client import Chat, NoAnswerError, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.options import Count, NonNegative, options
from mmsafe.curation.tagging.tagger import LABEL, Tagger, named, question
from mmsafe.curation.tagging.taxonomy import Taxonomy
from mmsafe.data.data_url import ImageFormat, image_part
from mmsafe.data.example import Example, digest
from mmsafe.evaluation.judges.request import Prices, Spent, image_tokens
from mmsafe.models.model_source import ModelSource

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

log = logging.getLogger(__name__)
FILTERED = "content_filter"


@options
class ServedTagger(Endpoint, Prices, Tagger):
    """Shows conversation and image to a model and asks for the name of a category; replies are kept in the cache."""

    max_tokens: Count = 32
    """Longest reply; the name of a category has to fit."""
    temperature: NonNegative | None = 0.0
    """null: not sent, for models that do not take it."""
    send_image: bool = True
    image_max_side: Count = 512
    """Pixels; larger images are scaled down."""
    image_format: ImageFormat = "jpeg"

    def __post_init__(self) -> None:
        Endpoint.__post_init__(self)
        Prices.__post_init__(self)

    def categories(self, examples: Sequence[Example], taxonomy: Taxonomy, model: ModelSource) -> list[str]:
        """Raises `UserError` if a request got no answer, after all others were answered and kept."""
        from mmsafe.generation.responses import kept_responses

        asked = [question(example, taxonomy, image=self.send_image) for example in examples]
        keys = [prompt.prompt_key() for prompt in asked]
        by_key = dict(zip(keys, asked, strict=True))

        def make(own: list[str]) -> Iterator[list[tuple[str, Response]]]:
            return self._replies({key: by_key[key] for key in own})

        folder = cache_dir("responses") / digest({"tagger": self.model, **self._settings()})
        found = kept_responses(folder, keys, make, len(by_key), LABEL)
        return [named(taxonomy, found[key]) for key in keys]

    def _replies(self, prompts: Mapping[str, Example]) -> Iterator[list[tuple[str, Response]]]:
        from mmsafe.generation.responses import served_responses

        needed, spent = Spent(), Spent()
        for prompt in prompts.values():
            needed.add(self._input_tokens(prompt), self.max_tokens)
        log.info("%s: about %s at most", LABEL, self.told(needed))
        self.refuse_cost(needed, LABEL, "tagger")

        async def ask(chat: Chat, prompt: Example) -> Response:
            return await self._reply(chat, prompt, spent)

        try:
            yield from served_responses(self, ask, prompts, LABEL)
        finally:
            log.info("%s: took %s", LABEL, self.told(spent))

    async def _reply(self, chat: Chat, prompt: Example, spent: Spent) -> Response:
        """What a filter stops or a model declines is a reply, too: it names no category."""
        from mmsafe.generation.generate import Response

        messages = await asyncio.to_thread(self._messages, prompt)
        sampling: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            tokens = self._input_tokens(prompt) + self.max_tokens
            answer = await chat.complete(messages, tokens, max_tokens=self.max_tokens, **sampling)
        except NoAnswerError as error:
            if error.code != FILTERED:
                raise
            return Response("", finished=False)
        spent.add(answer.input_tokens, answer.output_tokens)
        whole = answer.refusal is None and answer.finish_reason not in {FILTERED, "length"}
        return Response(answer.text or answer.refusal or "", finished=whole)

    def _messages(self, prompt: Example) -> list[dict[str, Any]]:
        (turn,) = prompt.turns
        if prompt.image is None:
            return [{"role": "user", "content": turn.text}]
        image = image_part(prompt.image, self.image_format, self.image_max_side)
        return [{"role": "user", "content": [image, {"type": "text", "text": turn.text}]}]

    def _settings(self) -> dict[str, Any]:
        """What a reply depends on, besides the prompt and the model."""
        names = ("max_tokens", "temperature", "image_max_side", "image_format")
        return {name: getattr(self, name) for name in names}

    def _input_tokens(self, prompt: Example) -> int:
        """About how many a request takes."""
        return estimated_tokens(prompt.turns[0].text) + image_tokens(self.image_max_side) * (prompt.image is not None)
