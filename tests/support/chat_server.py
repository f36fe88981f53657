"""An OpenAI-compatible chat endpoint on loopback that answers, or fails, as a test tells it to."""

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from loopback import Quiet, serving


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    content: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    status: int = 200
    message: str = ""
    """Of the error, where `status` is one."""
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of all the above."""
    delay: float = 0
    closes: bool = False
    """The connection, without an answer."""


def verdict(*, unsafe: bool = False, refused: bool = False, category: str | None = None) -> str:
    """What a judge is asked to reply."""
    return json.dumps({"unsafe": unsafe, "refused": refused, "category": category, "reason": "As asked."})


def text_of(request: dict[str, Any]) -> str:
    """The text of the last message."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def number_of(request: dict[str, Any]) -> int:
    """Of a request about `question number 3?`: 3."""
    found = re.search(r"question number (\d+)", text_of(request))
    assert found
    return int(found[1])


def planned(*plans: list[Reply]) -> Callable[[dict[str, Any]], Reply]:
    """To the n-th request about question number i, the n-th reply of plan i; the last one again to all that follow."""
    times: Counter[int] = Counter()

    def answer(request: dict[str, Any]) -> Reply:
        number = number_of(request)
        times[number] += 1
        return plans[number][min(times[number], len(plans[number])) - 1]

    return answer


class ChatServer:
    """Serves `POST /v1/chat/completions` while it is entered; remembers what it was asked."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._serving = serving(self._handler())

    def __enter__(self) -> Self:
        self.url = f"{self._serving.__enter__()}/v1"
        return self

    def __exit__(self, *error: Any) -> None:
        self._serving.__exit__(*error)

    def asked(self) -> list[str]:
        """The texts of all requests."""
        return [text_of(request) for request in self.requests]

    def _take(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
            self.keys.add(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            reply = self.answer(request)
        time.sleep(reply.delay)
        with self._lock:
            self._at_once -= 1
        return reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions"
                reply = server._take(request, self.headers["Authorization"])
                self.close_connection |= reply.closes
                with contextlib.suppress(ConnectionError):  # who asked may have gone
                    if not reply.closes:
                        self.reply(reply.status, _body(reply), **reply.headers)

        return Handler


def _body(reply: Reply) -> bytes:
    if reply.body is not None:
        return reply.body
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.message, "code": reply.code}}).encode()
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    return json.dumps(
        {
            "id": "one",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    ).encode()
