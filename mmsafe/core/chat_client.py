"""Requests to a chat endpoint: many at a time, within its limits, retried; every one ends in an answer or a reason."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from mmsafe.core.endpoint import Endpoint
from mmsafe.core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
BYTES_PER_TOKEN = 4
"""About as many bytes of UTF-8 make a token, when tokens are estimated."""
REASON_LENGTH = 200
"""Longest message of a server that is passed on, in characters."""
HOPELESS = {401, 403, 404}
"""Statuses that say of the first request that no other will do better: wrong key, no access, no such model."""
CONNECTION_LOGGERS = ("openai", "httpx2", "httpcore2")
"""They log every request, and at their lowest levels headers and content: the key, and offensive text."""


class NoAnswerError(Exception):
    """Why a request got no answer, in one line that holds neither the key nor what was asked."""

    def __init__(self, reason: str, status: int | None = None, code: str | None = None, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.status, self.code = status, code
        self.hopeless = hopeless or status in HOPELESS


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said; `text` is None if it said nothing. `refusal`: the endpoint's own word for declining."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int
    output_tokens: int


class Chat:
    """A connection to an endpoint, entered in the event loop that uses it."""

    def __init__(self, endpoint: Endpoint) -> None:
        from openai import AsyncOpenAI

        from mmsafe.core.bounded_http import BoundedClient

        for name in CONNECTION_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._endpoint = endpoint
        self._client = AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.key or "none",  # the client refuses an empty one
            timeout=endpoint.timeout,
            max_retries=endpoint.max_retries,
            http_client=BoundedClient(endpoint.timeout),
        )
        self._free_from = 0.0

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.close()

    async def complete(self, messages: list[dict[str, Any]], tokens: int, **parameters: Any) -> Answer:
        """Ask; `tokens` estimates what it takes, in and out. Raises `NoAnswerError`, after retries where they help."""
        from httpx2 import ConnectError
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        from mmsafe.core.bounded_http import RefusedReplyError

        await self._wait(tokens)
        try:
            create: Any = self._client.chat.completions.with_raw_response.create
            reply = await create(model=self._endpoint.model, messages=messages, **parameters)
        except APITimeoutError as error:
            raise NoAnswerError(f"no answer within {self._endpoint.timeout:g} s") from error
        except APIConnectionError as error:
            raise NoAnswerError("the connection failed", hopeless=isinstance(error.__cause__, ConnectError)) from error
        except RefusedReplyError as error:
            raise NoAnswerError(f"the reply is {error}", hopeless=error.leads_away) from error
        except APIStatusError as error:
            raise self._refused(error.status_code, error.body) from error
        return _answer(reply.content)

    async def _wait(self, tokens: int) -> None:
        """Spread requests evenly, so that no minute holds more than the limits allow; retries are not counted."""
        limits = self._endpoint
        minutes = max(1 / (limits.requests_per_minute or inf), tokens / (limits.tokens_per_minute or inf))
        now = asyncio.get_running_loop().time()
        start = max(now, self._free_from)
        self._free_from = start + 60 * minutes
        await asyncio.sleep(start - now)

    def _refused(self, status: int, body: Any) -> NoAnswerError:
        """The server's own message where it sends one; other parts of its reply may repeat what was asked."""
        details = body if isinstance(body, dict) else {}
        message = next((details[name] for name in ("message", "detail") if isinstance(details.get(name), str)), "")
        if self._endpoint.key:
            message = message.replace(self._endpoint.key, "[key]")
        message = " ".join("".join(c if c.isprintable() else " " for c in message).split())[:REASON_LENGTH]
        reason, code = f"HTTP {status}" + (f": {message}" if message else ""), details.get("code")
        return NoAnswerError(reason, status, str(code) if code else None)


def ask_all(
    endpoint: Endpoint, ask: Callable[[Chat, T], Awaitable[R]], items: Sequence[T]
) -> Iterator[tuple[int, R | NoAnswerError]]:
    """`ask` of every item with its position, as answers come, or why there is none: each once, in any order.

    The first item is asked alone. Raises `UserError` if its failure says that no other will do better.
    """
    results = _as_they_come(endpoint, ask, items)

    async def step() -> tuple[int, R | NoAnswerError] | None:
        return await anext(results, None)

    with asyncio.Runner() as runner:  # whatever ends this, it cancels what is under way and closes `results`
        while (result := runner.run(step())) is not None:  # between two steps nothing goes on
            yield result


async def _as_they_come(
    endpoint: Endpoint, ask: Callable[[Chat, T], Awaitable[R]], items: Sequence[T]
) -> AsyncIterator[tuple[int, R | NoAnswerError]]:
    async def attempt(chat: Chat, item: T) -> R | NoAnswerError:
        try:
            return await ask(chat, item)
        except NoAnswerError as error:
            return error

    waiting = iter(enumerate(items))
    pending: dict[asyncio.Task[R | NoAnswerError], int] = {}
    at_once = 1
    async with Chat(endpoint) as chat:
        try:
            while True:
                for position, item in islice(waiting, at_once - len(pending)):
                    pending[asyncio.create_task(attempt(chat, item))] = position
                if not pending:
                    return
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if pending[task] == 0:
                        _refuse_hopeless(task.result(), endpoint)
                        at_once = endpoint.concurrency
                    yield pending.pop(task), task.result()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


def _refuse_hopeless(result: object, endpoint: Endpoint) -> None:
    if isinstance(result, NoAnswerError) and result.hopeless:
        raise UserError(
            f"{endpoint.base_url}, model {endpoint.model}: {result}; see that the endpoint is up, that it serves this "
            f"model, and that {endpoint.api_key_env} holds a key for it"
        ) from result


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _answer(content: bytes) -> Answer:
    """Read the fields that are needed, and no others: servers differ in the rest."""
    try:
        completion = _Completion.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NoAnswerError(f"the server's reply is no chat completion ({place or 'body'}: {first['type']})") from error
    choice, usage = completion.choices[0], completion.usage or _Usage()
    message = choice.message
    return Answer(message.content, message.refusal, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)


def estimated_tokens(text: str) -> int:
    """How many tokens `text` is about."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)
