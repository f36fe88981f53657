"""Requests to servers that owe us nothing: few at a time, spread out, patient, and with a name to complain to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from mmsafe import __version__
from mmsafe.core.options import Count, Positive, options

if TYPE_CHECKING:
    from httpx2 import Response

T = TypeVar("T")
AGAIN = {408, 429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed."""
CONNECTION_LOGGERS = ("httpx2", "httpcore2")
"""They log every address, and at their lowest levels every header."""


@options
class Politeness:
    """How hard servers are pressed. None of it changes a row."""

    contact: str | None = None
    """Required: an e-mail address or a page, for the User-Agent; Wikimedia's policy asks for it."""
    concurrency: Count = 2
    """Requests under way at a time; Wikimedia asks for no more than this when files are fetched."""
    requests_per_second: Positive = 2.0
    timeout: Positive = 60.0
    """Seconds that a request may take as a whole."""
    max_retries: Annotated[int, Field(ge=0)] = 5
    """Of a request; the wait is what the server asks for, or 1, 2, 4, … seconds."""
    max_wait: Positive = 300.0
    """Longest wait, in seconds; a server that asks for more is left alone."""


class UnreachableError(Exception):
    """A request that may succeed another day, and why it did not now."""


class RefusedError(Exception):
    """A request that would be answered the same way another time, and how."""


class AgainError(Exception):
    """A reply that is none; `wait` is for how many seconds the server wants to be left alone, if it says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class PoliteClient:
    """A connection pool within the limits of `Politeness`, for one event loop."""

    def __init__(self, limits: Politeness) -> None:
        from mmsafe.core.bounded_http import BoundedClient

        for name in CONNECTION_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._limits = limits
        self._client = BoundedClient(limits.timeout, f"mmsafe/{__version__} ({limits.contact}) httpx2")
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._free_from = 0.0

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, url: str, read: Callable[[Response, bytes], T], max_bytes: int, **request: Any) -> T:
        """What `read` makes of the reply's content; it may raise `AgainError` to ask again.

        `request` are `params` and `headers`. Raises `UnreachableError` or `RefusedError`.
        """
        limits = self._limits
        for attempt in range(limits.max_retries + 1):
            try:
                async with self._slots:
                    await self._turn()
                    return await self._once(url, read, max_bytes, request)
            except AgainError as again:
                problem = again
            wait = 2.0**attempt if problem.wait is None else problem.wait
            if wait > limits.max_wait:
                raise UnreachableError(f"{problem}; the server asks to be left alone for {wait:.0f} s") from problem
            if attempt == limits.max_retries:
                break
            if problem.wait is None:
                await asyncio.sleep(wait)
            else:  # a server that asks for it is left alone by all requests
                self._free_from = max(self._free_from, asyncio.get_running_loop().time() + wait)
        raise UnreachableError(f"{problem}, {limits.max_retries + 1} times") from problem

    async def _once(
        self, url: str, read: Callable[[Response, bytes], T], max_bytes: int, request: Mapping[str, Any]
    ) -> T:
        import httpx2

        from mmsafe.core.bounded_http import RefusedReplyError

        try:
            reply = await self._client.get(url, **request, extensions={"max_bytes": max_bytes})
        except httpx2.ReadTimeout as error:
            raise AgainError(f"no complete reply within {self._limits.timeout:g} s") from error
        except RefusedReplyError as error:
            raise RefusedError(str(error)) from error
        except (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise RefusedError("redirected to nowhere") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise AgainError(f"the connection failed ({type(error).__name__})") from error
        if reply.status_code in AGAIN:
            raise AgainError(f"HTTP {reply.status_code}", asked_wait(reply.headers))
        if reply.status_code != httpx2.codes.OK:
            raise RefusedError(f"HTTP {reply.status_code}")
        return read(reply, reply.content)

    async def _turn(self) -> None:
        """Wait until the next request may start."""
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < self._free_from:  # it may be moved while we wait
            await asyncio.sleep(self._free_from - now)
        self._free_from = now + 1 / self._limits.requests_per_second


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After`, a number or a date; None if there is none that can be read."""
    header = headers.get("Retry-After", "")
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((aware - datetime.now(UTC)).total_seconds(), 0.0)
