"""What answers the prompts of an evaluation: the model in this process, or one behind a chat endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mmsafe.core.cache import cache_dir
from mmsafe.core.chat_client import Chat, NoAnswerError, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.decoding import image_part
from mmsafe.data.example import Example, ImageSource, Turn, digest

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""By which vLLM and SGLang go on with the answer that the last message begins."""
IMAGE_TOKENS = 576
"""Of LLaVA-1.5, for the limit of tokens a minute."""


@options
class Engine:
    """Base of all engines."""


@options
class LocalEngine(Engine):
    """The model of `checkpoint=` or `model=`, loaded into this process."""


@options
class Served(Endpoint, Engine):
    """The model that an OpenAI-compatible engine serves, such as vLLM; images in full size without loss."""

    def responses(
        self, prompts: Sequence[Example], max_new_tokens: int, label: str, temperature: float = 0, seed: int = 0
    ) -> list[Response]:
        """A response to every prompt, from the cache or asked for now; the same prompt is sampled as often as given.

        Raises `UserError` if any prompt got none, after all others were answered and kept.
        """
        from mmsafe.generation.responses import draws_of, kept_responses, served_responses

        if any(getattr(image, "changes_pixels", False) for prompt in prompts for image in prompt.images):
            what = "masks and noise are made of what a vision tower here is given"
            raise UserError(f"generation=endpoint: {what}; leave them out: '~benchmark.images.mask', …")
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens}
        if temperature:  # the server draws by a seed of its own; ours tells kept samples apart
            settings |= {"temperature": temperature, "seed": seed}
        draws = draws_of(prompts, greedy=temperature == 0)
        keys = [draw.key if temperature else draw.example.prompt_key() for draw in draws]
        asked = dict(zip(keys, prompts, strict=True))

        async def request(chat: Chat, prompt: Example) -> Response:
            return await self._response(chat, prompt, max_new_tokens, temperature)

        def make(own: list[str]) -> Iterator[list[tuple[str, Response]]]:
            return served_responses(self, request, {key: asked[key] for key in own}, label)

        folder = cache_dir("responses") / digest([{"served": self.model}, settings])
        found = kept_responses(folder, keys, make, len(asked), label)
        return [found[key] for key in keys]

    async def _response(self, chat: Chat, prompt: Example, max_new_tokens: int, temperature: float) -> Response:
        from mmsafe.generation.generate import Response

        messages = await asyncio.to_thread(lambda: [_message(turn, parts) for turn, parts in prompt.contents()])
        tokens = (
            sum(estimated_tokens(turn.text) + IMAGE_TOKENS * len(turn.images) for turn in prompt.turns) + max_new_tokens
        )
        begun = {"extra_body": CONTINUED} if prompt.turns[-1].role == "assistant" else {}
        answer = await chat.complete(messages, tokens, max_tokens=max_new_tokens, temperature=temperature, **begun)
        text = answer.refusal if answer.text is None else answer.text
        if text is None or answer.finish_reason == "content_filter":
            raise NoAnswerError(f"the endpoint gave none, finish_reason {answer.finish_reason}")
        return Response(text, answer.finish_reason != "length")


def _message(turn: Turn, parts: Sequence[str | ImageSource]) -> dict[str, Any]:
    """A server takes the text of a turn without images as a string."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else image_part(part, "png") for part in parts]
    return {"role": turn.role, "content": content if turn.images else turn.text}
