"""Responses of a model behind a chat endpoint: what is asked, and under which keys answers are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mmsafe.core.chat_client import Chat, NoAnswerError, estimated_tokens
from mmsafe.core.endpoint import Endpoint
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.core.settings import Generation
from mmsafe.data.decoding import image_part
from mmsafe.data.example import Example, ImageSource, Turn, digest

if TYPE_CHECKING:
    from mmsafe.generation.generate import Prompt, Response

log = logging.getLogger(__name__)
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""By which vLLM and SGLang go on with the answer that the last message begins."""
IMAGE_TOKENS = 576
"""Of LLaVA-1.5, for the limit of tokens a minute."""


@options
class ServedGeneration(Generation, Endpoint):
    """Responses are sampled by the model that an OpenAI-compatible engine serves; images in full size without loss.

    Each sample has a seed of its own, which engines take as they will: asked again they may say something else.
    """

    def __post_init__(self) -> None:
        Generation.__post_init__(self)
        Endpoint.__post_init__(self)

    def store_key(self) -> str:
        """Hash of the model's name and of every setting that changes an answer."""
        chosen = ["max_new_tokens", *(["temperature", "top_p", "seed"] if self.temperature else [])]
        return digest([{"served": self.model}, {name: getattr(self, name) for name in chosen}])

    def draw_key(self, draw: Prompt) -> str:
        """Identity of a sample under that key; of a greedy answer, that of its prompt."""
        return draw.key if self.temperature else draw.example.prompt_key()

    def check(self, prompts: Sequence[Example]) -> None:
        """Raise `UserError` if an image cannot be sent as the model here would be shown it."""
        if any(getattr(image, "changes_pixels", False) for prompt in prompts for image in prompt.images):
            what = "masks and noise are made of what a vision tower here is given"
            instead = "leave them out ('~benchmark.images.mask', …), or choose corruption=crop"
            raise UserError(f"generation=endpoint: {what}; {instead}")

    async def ask(self, chat: Chat, draw: Prompt) -> Response:
        """The answer to one prompt; raises `NoAnswerError` where there is none."""
        from mmsafe.generation.generate import Response

        prompt = draw.example
        messages = await asyncio.to_thread(lambda: [_message(turn, parts) for turn, parts in prompt.contents()])
        words = sum(estimated_tokens(turn.text) + IMAGE_TOKENS * len(turn.images) for turn in prompt.turns)
        sampling: dict[str, Any] = {"max_tokens": self.max_new_tokens, "temperature": self.temperature}
        if self.temperature:
            sampling |= {"top_p": self.top_p, "seed": int(digest([self.seed, draw.key])[:8], 16)}
        if prompt.turns[-1].role == "assistant":
            sampling["extra_body"] = CONTINUED
        try:
            answer = await chat.complete(messages, words + self.max_new_tokens, **sampling)
        except NoAnswerError as error:
            if "seed" not in sampling or error.status not in (400, 422) or "seed" not in str(error):
                raise
            _tell_unseeded(self.base_url)
            del sampling["seed"]
            answer = await chat.complete(messages, words + self.max_new_tokens, **sampling)
        text = answer.refusal if answer.text is None else answer.text
        if text is None or answer.finish_reason == "content_filter":
            raise NoAnswerError(f"the endpoint gave none, finish_reason {answer.finish_reason}")
        return Response(text, answer.finish_reason != "length")


@cache
def _tell_unseeded(url: str) -> None:
    log.warning("%s takes no seed: its samples are kept, but asked again it says something else", url)


def _message(turn: Turn, parts: Sequence[str | ImageSource]) -> dict[str, Any]:
    """A server takes the text of a turn without images as a string."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else image_part(part, "png") for part in parts]
    return {"role": turn.role, "content": content if turn.images else turn.text}
