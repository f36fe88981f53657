"""Servers that never end, send too much or lead away, against the clients of chat endpoints and of encyclopaedias."""

import asyncio
import contextlib
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from loopback import Quiet, serving

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


class Handler(Quiet):
    """Does what the first part of the path says."""

    elsewhere: list[str]
    arrived: list[tuple[str, str, dict[str, str]]]

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.arrived.append((self.command, self.path, dict(self.headers)))
        with contextlib.suppress(ConnectionError):
            REPLIES[self.path.split("/")[1]](self)

    do_GET = do_POST  # noqa: N815

    def begin(self, status: int = 200, **headers: str) -> None:
        """Without a length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def forever(self, part: bytes, pause: float = 0) -> None:
        while True:
            self.wfile.write(part)
            time.sleep(pause)


REPLIES: dict[str, Callable[[Handler], object]] = {
    "right": lambda it: it.reply(200, ANSWER),
    "small_and_packed": lambda it: it.reply(200, packed(iter([ANSWER])), Content_Encoding="gzip"),
    "dripping_body": lambda it: (it.begin(), it.forever(b" ", pause=0.05)),
    "dripping_headers": lambda it: (it.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: "), it.forever(b"a", pause=0.05)),
    "dripping_redirects": lambda it: (time.sleep(TIMEOUT / 3), it.begin(307, Location=it.path)),
    "endless": lambda it: (it.begin(), it.forever(bytes(MIB))),
    "endless_error": lambda it: (it.begin(400), it.forever(bytes(MIB))),
    "bomb": lambda it: (it.begin(Content_Encoding="gzip"), it.wfile.write(BOMB)),
    "bomb_in_a_redirect": lambda it: (
        it.begin(307, Content_Encoding="gzip", Location="/right/v1/chat/completions"),
        it.wfile.write(BOMB),
    ),
    "unknown_packing": lambda it: it.reply(200, ANSWER, Content_Encoding="br"),
    "here": lambda it: it.begin(307, Location=it.path.replace("here", "right")),
    "away": lambda it: it.begin(307, Location=it.elsewhere[0] + it.path.replace("away", "right")),
}


@pytest.fixture
def servers() -> Iterator[tuple[type[Handler], type[Handler]]]:
    """Two, of which the first knows the address of the second."""
    first, second = (type("Bound", (Handler,), {"elsewhere": [], "arrived": []}) for _ in range(2))
    with serving(first) as one, serving(second) as other:
        first.elsewhere = [other, one]
        yield first, second


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
