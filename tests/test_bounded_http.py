"""Servers that never end, send too much or lead away, against the clients of chat endpoints and of encyclopaedias."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mmsafe.core.chat_client import Chat, NoAnswerError
from mmsafe.core.endpoint import Endpoint
from mmsafe.curation.build.polite_client import PoliteClient, Politeness, RefusedError, UnreachableError

MIB = 2**20
TIMEOUT, PATIENCE = 0.4, 30.0
ANSWER = b'{"choices": [{"message": {"content": "Fine."}}]}'
KEY = "key-of-this-test"


def packed(content: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join([*map(packer.compress, content), packer.flush()])


BOMB = packed(bytes(MIB) for _ in range(200))


class Handler(BaseHTTPRequestHandler):
    """Does what the first part of the path says."""

    elsewhere: list[str]
    arrived: list[tuple[str, str, dict[str, str]]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.arrived.append((self.command, self.path, dict(self.headers)))
        with contextlib.suppress(ConnectionError):
            getattr(self, self.path.split("/")[1])()

    do_GET = do_POST  # noqa: N815

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def right(self) -> None:
        self.reply(ANSWER)

    def small_and_packed(self) -> None:
        self.reply(packed(iter([ANSWER])), Content_Encoding="gzip")

    def dripping_body(self) -> None:
        self.reply(b"")
        self._forever(b" ", pause=0.05)

    def dripping_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self._forever(b"a", pause=0.05)

    def dripping_redirects(self) -> None:
        time.sleep(TIMEOUT / 3)
        self.reply(b"", 307, Location=self.path)

    def endless(self) -> None:
        self.reply(b"")
        self._forever(bytes(MIB), pause=0)

    def endless_error(self) -> None:
        self.reply(b"", 400)
        self._forever(bytes(MIB), pause=0)

    def bomb(self) -> None:
        self.reply(BOMB, Content_Encoding="gzip")

    def bomb_in_a_redirect(self) -> None:
        self.reply(BOMB, 307, Content_Encoding="gzip", Location="/right/v1/chat/completions")

    def unknown_packing(self) -> None:
        self.reply(ANSWER, Content_Encoding="br")

    def here(self) -> None:
        self.reply(b"", 307, Location=self.path.replace("here", "right"))

    def away(self) -> None:
        self.reply(b"", 307, Location=self.elsewhere[0] + self.path.replace("away", "right"))

    def _forever(self, part: bytes, pause: float) -> None:
        while True:
            self.wfile.write(part)
            time.sleep(pause)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[type[Handler], type[Handler]]]:
    """Two, of which the first knows the address of the second."""
    kinds, running = [], []
    for _ in range(2):
        kind = type("Bound", (Handler,), {"elsewhere": [], "arrived": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        kinds.append(kind)
        running.append(server)
    first, second = kinds
    first.elsewhere = [f"http://127.0.0.1:{server.server_port}" for server in reversed(running)]
    yield first, second
    for server in running:
        server.shutdown()
        server.server_close()


def ask(url: str, timeout: float = PATIENCE) -> str | None:
    """As judges, taggers and served models are asked."""

    async def run() -> str | None:
        async with Chat(Endpoint(base_url=f"{url}/v1", model="m", timeout=timeout, max_retries=0)) as chat:
            return (await chat.complete([{"role": "user", "content": "Hm?"}], 1)).text

    return asyncio.run(run())


def get(url: str, timeout: float = PATIENCE, **headers: str) -> bytes:
    """As encyclopaedias are asked for images."""

    async def run() -> bytes:
        limits = Politeness(contact="me@example.org", timeout=timeout, max_retries=0, requests_per_second=1000)
        async with contextlib.aclosing(PoliteClient(limits)) as client:
            return await client.get(url, lambda reply, content: content, MIB, headers=headers)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


FAULTS = {
    "dripping_body": f"within {TIMEOUT:g} s",
    "dripping_headers": f"within {TIMEOUT:g} s",
    "dripping_redirects": f"within {TIMEOUT:g} s",
    "endless": "larger than allowed",
    "endless_error": "larger than allowed",
    "bomb": "larger than allowed",
    "bomb_in_a_redirect": "larger than allowed",
    "unknown_packing": "the connection failed",
}


@pytest.mark.parametrize("client", [ask, get])
@pytest.mark.parametrize(("fault", "reason"), FAULTS.items(), ids=FAULTS)
def test_a_hostile_reply_ends_in_time_and_within_a_bounded_memory(
    servers: tuple[type[Handler], type[Handler]], client: Callable[[str, float], object], fault: str, reason: str
) -> None:
    url, timeout = servers[0].elsewhere[1], TIMEOUT if "within" in reason else PATIENCE
    assert client(f"{url}/right", PATIENCE)
    tracemalloc.start()
    begin = time.monotonic()
    with pytest.raises((NoAnswerError, RefusedError, UnreachableError), match=reason):
        client(f"{url}/{fault}", timeout)
    assert time.monotonic() - begin < PATIENCE / 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MIB


def test_what_is_right_comes_through_packed_or_redirected_on_the_same_server(
    servers: tuple[type[Handler], type[Handler]],
) -> None:
    url = servers[0].elsewhere[1]
    for path in ("right", "small_and_packed", "here"):
        assert ask(f"{url}/{path}") == "Fine."
        assert get(f"{url}/{path}") == ANSWER


def test_prompts_and_keys_are_not_taken_to_another_server(servers: tuple[type[Handler], type[Handler]]) -> None:
    first, second = servers
    url = first.elsewhere[1]
    with pytest.raises(NoAnswerError, match=r"redirected to another server, 127\.0\.0\.1:") as caught:
        ask(f"{url}/away")
    assert caught.value.hopeless  # the first request ends the command: no other will do better
    with pytest.raises(RefusedError, match="redirected to another server"):
        get(f"{url}/away", **{"X-Goog-Api-Key": KEY})
    assert second.arrived == []
    assert get(f"{url}/away") == ANSWER  # which holds neither
    assert [method for method, _, _ in second.arrived] == ["GET"]
    assert KEY not in str(second.arrived)
