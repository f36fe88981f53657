"""A small MediaWiki on loopback: `pageimages`, `imageinfo` and image files, over sockets, with faults on demand."""

import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from loopback import Quiet, serving
from PIL import Image

API = "/w/api.php"
Fault = Callable[["Handler"], None]


class Asked(NamedTuple):
    """A request that has arrived, and when."""

    path: str
    query: dict[str, str]
    agent: str
    time: float


class WikiServer:
    """Pages by title with the name of their image, or None; `"*"` stands for every title that is not listed.

    `faults` holds, by path, what is done in place of an answer: the first of a list once, then the next; a fault that
    is not in a list each time. Entered, it listens on a free port.
    """

    def __init__(self, pages: Mapping[str, str | None], redirects: Mapping[str, str] | None = None) -> None:
        self.pages, self.redirects = dict(pages), dict(redirects or {})
        self.faults: dict[str, list[Fault] | Fault] = {}
        self.asked: list[Asked] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        server = self

        class Bound(Handler):
            wiki = server

        self._serving = serving(Bound)
        self.url = self._serving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._serving.__exit__(*error)

    @property
    def api(self) -> str:
        return self.url + API

    def paths(self) -> list[str]:
        """Of the requests for files, in their order."""
        return [asked.path for asked in self.asked if asked.path != API]

    def fault(self, path: str) -> Fault | None:
        planned = self.faults.get(path)
        if isinstance(planned, list):
            return planned.pop(0) if planned else None
        return planned

    def answer(self, query: Mapping[str, str]) -> dict[str, Any]:
        titles = query["titles"].split("|")
        assert len(titles) <= 50
        assert len(set(titles)) == len(titles)
        if query["prop"] == "imageinfo":
            return {"batchcomplete": True, "query": {"pages": self._files(titles)}}
        normal = {title: title[0].upper() + title[1:] for title in titles}
        ends = {title: self.redirects.get(normal[title], normal[title]) for title in titles}
        return {
            "batchcomplete": True,
            "query": {
                "normalized": [{"from": a, "to": b} for a, b in normal.items() if a != b],
                "redirects": [{"from": normal[a], "to": b} for a, b in ends.items() if normal[a] != b],
                "pages": [self._page(title) for title in dict.fromkeys(ends.values())],
            },
        }

    def _page(self, title: str) -> dict[str, Any]:
        default = f"{title.replace(' ', '_')}.png" if "*" in self.pages else None
        image = self.pages.get(title, default)
        if title not in self.pages and default is None:
            return {"ns": 0, "title": title, "missing": True}
        about: dict[str, Any] = {"pageid": 1, "title": title, "canonicalurl": f"{self.url}/wiki/{quote(title)}"}
        if image is not None:
            about["thumbnail"] = {"source": f"{self.url}/thumb/500px-{quote(image)}", "width": 500, "height": 300}
            about["pageimage"] = image
        return about

    def _files(self, titles: list[str]) -> list[dict[str, Any]]:
        licence = {"LicenseShortName": {"value": "CC BY-SA 4.0"}, "Artist": {"value": '<a href="//x">Ann &amp; Co</a>'}}
        url = f"{self.url}/wiki/File:x"
        return [{"title": title, "imageinfo": [{"descriptionurl": url, "extmetadata": licence}]} for title in titles]


class Handler(Quiet):
    """One request."""

    wiki: WikiServer

    def do_GET(self) -> None:  # noqa: N802
        wiki, parts = self.wiki, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with wiki.lock:
            wiki.asked.append(Asked(parts.path, query, self.headers["User-Agent"], time.monotonic()))
            wiki.under_way += 1
            wiki.most_under_way = max(wiki.most_under_way, wiki.under_way)
            fault = wiki.fault(parts.path)
        try:
            if fault is not None:
                fault(self)
            elif parts.path == API:
                self.reply(200, json.dumps(wiki.answer(query)).encode())
            elif parts.path.startswith("/thumb/"):
                self.reply(200, picture(unquote(parts.path)), "image/png")
            else:
                self.reply(404, b"no such file", "text/plain")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client had waited long enough
        finally:
            with wiki.lock:
                wiki.under_way -= 1


def picture(name: str) -> bytes:
    """A small PNG, another one for every name."""
    file = io.BytesIO()
    colour = tuple(sum(name.encode()) * factor % 256 for factor in (1, 7, 31))
    Image.new("RGB", (20 + len(name) % 20, 15), colour).save(file, "PNG")
    return file.getvalue()


def status(code: int, **headers: str) -> Fault:
    """An error page."""
    return lambda handler: handler.reply(code, b"<html>not now</html>", "text/html", **headers)


def content(data: bytes, kind: str = "image/png") -> Fault:
    """Something else, with status 200."""
    return lambda handler: handler.reply(200, data, kind)


def api_error(code: str, **headers: str) -> Fault:
    """MediaWiki's way: status 200 and an error in the body."""
    body = json.dumps({"error": {"code": code, "info": "Waiting for a database server"}}).encode()
    return lambda handler: handler.reply(200, body, **headers)


def redirect(to: str) -> Fault:
    return lambda handler: handler.reply(302, b"", Location=to)


def truncated(handler: Handler) -> None:
    """Less than was announced, then the connection ends."""
    handler.reply(200, picture("x")[:40], "image/png", Content_Length="5000")
    handler.close_connection = True


def slow(seconds: float) -> Fault:
    """Headers at once, then a byte now and then: no single read takes long."""

    def drip(handler: Handler) -> None:
        data = picture("slow")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for byte in data:
            handler.wfile.write(bytes([byte]))
            time.sleep(seconds / len(data))

    return drip
