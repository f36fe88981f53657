"""The client for all servers that are asked for data: replies have a time and a size, and lead to no other server."""

import asyncio
import zlib
from typing import Any

from httpx2 import URL, AsyncClient, DecodingError, Limits, ReadTimeout, Request, Response, TooManyRedirects

MAX_REPLY = 16 * 2**20
"""Bytes that a reply may have, unpacked, where the request's extension `max_bytes` says nothing else."""
REDIRECTS = 5
SECRETS = ("authorization", "x-goog-api-key")
"""Headers that hold a key."""
PACKED = ("gzip", "deflate")


class RefusedReplyError(Exception):
    """A reply that is too large, or (`leads_away`) one that asks to send the request to another server."""

    def __init__(self, reason: str, *, leads_away: bool = False) -> None:
        super().__init__(reason)
        self.leads_away = leads_away


class BoundedClient(AsyncClient):
    """Each reply is read whole within `seconds`, redirects and all that a slow server makes wait included.

    A redirect to another scheme, host or port is followed only by requests without content and without a key. Raises
    `RefusedReplyError` besides what its base does; a time-out is a `ReadTimeout`.
    """

    def __init__(self, seconds: float, agent: str | None = None) -> None:
        headers = {"Accept-Encoding": ", ".join(PACKED)} | ({"User-Agent": agent} if agent else {})
        super().__init__(headers=headers, timeout=None, limits=Limits())  # whoever asks limits connections
        self._seconds = seconds

    async def send(self, request: Request, *, stream: bool = False, **options: Any) -> Response:
        """Send it, and follow redirects; what comes back is whole, even if it was to be a stream."""
        options.pop("follow_redirects", None)
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(REDIRECTS + 1):
                    reply = await self._sent(request, options)
                    if reply.next_request is None:
                        return reply
                    _refuse_to_leave(request, reply.next_request.url)
                    request = reply.next_request
        except TimeoutError as error:
            raise ReadTimeout(f"no complete reply within {self._seconds:g} s", request=request) from error
        raise TooManyRedirects(f"more than {REDIRECTS} redirects", request=request)

    async def _sent(self, request: Request, options: dict[str, Any]) -> Response:
        reply = await super().send(request, stream=True, follow_redirects=False, **options)
        try:
            content = await _content(reply, request.extensions.get("max_bytes", MAX_REPLY))
        finally:
            await reply.aclose()
        framing = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in reply.headers.multi_items() if name.lower() not in framing]
        whole = Response(reply.status_code, headers=headers, content=content, request=request)
        whole.next_request = reply.next_request
        return whole


async def _content(reply: Response, max_bytes: int) -> bytes:
    """The body, unpacked here: httpx2 would unpack each part whole, to a thousand times its size, before it counts."""
    packing = reply.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "", *PACKED):
        raise DecodingError(f"a reply packed as {packing!r:.40}, which was not asked for", request=reply.request)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if packing in PACKED else None  # 32: either of the two
    content = bytearray()
    async for part in reply.aiter_raw():
        try:
            content += unpacker.decompress(part, max_bytes + 1 - len(content)) if unpacker else part
        except zlib.error as error:
            raise DecodingError("a reply that cannot be unpacked", request=reply.request) from error
        if len(content) > max_bytes:
            raise RefusedReplyError("larger than allowed")
    return bytes(content)


def _refuse_to_leave(request: Request, to: URL) -> None:
    carries = request.method not in ("GET", "HEAD") or any(name in request.headers for name in SECRETS)
    if carries and _server(request.url) != _server(to):
        raise RefusedReplyError(f"redirected to another server, {to.netloc.decode()}", leads_away=True)


def _server(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
