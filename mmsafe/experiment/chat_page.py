"""The conversation as a page of this machine: a form and what was said, without a script."""

import email.policy
import ipaddress
import re
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Lock
from typing import Any

import pyarrow as pa

from mmsafe.core.endings import report
from mmsafe.core.errors import UserError
from mmsafe.data.tables import StoredImage
from mmsafe.experiment.conversation import OTHER, Conversation, plain
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.run_samples import thumbnail

LARGEST = 64 << 20
"""Bytes of a request, images included."""


class Server(ThreadingTCPServer):
    """Has its address before there are models, and answers one question at a time when they are there."""

    allow_reuse_address = daemon_threads = True
    one, problem = Lock(), ""
    conversation: Conversation

    def take(self, form: dict[str, bytes]) -> None:
        """What was sent by the form; what is wrong with it stands on the page."""
        with self.one:
            try:
                self.problem = ""
                image, other = (_image(form.get(name)) for name in ("image", "other"))
                if "reset" in form:
                    self.conversation.reset()
                else:
                    self.conversation.other = other or self.conversation.other
                    list(self.conversation.ask(form.get("question", b"").decode(errors="replace"), image))
            except UserError as error:
                self.problem = str(error)


def bound(host: str, port: int) -> Server:
    """The server at this address; raises `UserError` where that cannot be had."""
    try:
        server = Server((host, port), _Handler)
    except OSError as error:
        raise UserError(f"host={host} port={port}: {error.strerror}; choose another port, or port=0") from error
    if not ipaddress.ip_address(str(server.server_address[0])).is_loopback:
        report(f"host={host}: whoever reaches this machine can use the models: there is no password", "mmsafe.chat")
    return server


def serve(server: Server, conversation: Conversation) -> None:
    """Answer until the process is stopped."""
    server.conversation = conversation
    place = ":".join(map(str, server.server_address))
    print(f"{conversation.about}\nopen http://{place}/  (Ctrl-C ends it)", flush=True)
    server.serve_forever()


def _image(data: bytes | None) -> StoredImage | None:
    if not data:
        return None
    image = StoredImage("the image", pa.array([data]), 0)
    image.check(decode=True)
    return image


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def parse_request(self) -> bool:
        """Refuses what other sites ask: they have another origin, or a name that they have led to this address."""
        if not super().parse_request():
            return False
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if re.fullmatch(r"(localhost|[\d.]+)(:\d+)?", host) and (origin == f"http://{host}" or self.command == "GET"):
            return True
        self.send_error(403, "only the page itself may ask; open it by its address")
        return False

    def do_GET(self) -> None:
        values = {"chat": self.server.conversation, "problem": self.server.problem, "other_view": OTHER}
        page = rendered("chat", styles=("samples", "chat"), scripts=(), plain=plain, thumbnail=thumbnail, **values)
        self._reply(200, page.encode(), **{"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"})

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > LARGEST:
            self._reply(413, f"more than {LARGEST >> 20} MiB; choose smaller images".encode())
        else:
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            message: Any = email.message_from_bytes(head + self.rfile.read(int(size)), policy=email.policy.HTTP)
            parts = message.iter_parts()
            self.server.take(
                {p.get_param("name", header="Content-Disposition"): p.get_payload(decode=True) for p in parts}
            )
            self._reply(303, Location="/#last")

    def _reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        with suppress(ConnectionError):  # the browser may have gone
            self.send_response(status)
            for name, value in {"X-Frame-Options": "DENY", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""
