"""A hub on loopback that takes what is uploaded to it, as far as `huggingface_hub` needs one."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loopback import Quiet, serving


@dataclass
class Hub:
    """What it was sent."""

    url: str = ""
    token: str = "hf_right-token"
    refuses_commits: bool = False
    repositories: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that is there for the block."""
    hub = Hub()

    class Handler(Quiet):
        def do_POST(self) -> None:  # noqa: N802
            hub.paths.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say(401, {"error": "Invalid credentials"})
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                hub.repositories[f"{asked.get('organization')}/{asked['name']}"] = asked
                self._say(200, {"url": f"{hub.url}/{asked.get('organization')}/{asked['name']}"})
            elif "/preupload/" in self.path:
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                self._say(200, {"files": files})
            elif "/commit/" in self.path and hub.refuses_commits:
                self._say(403, {"error": "Forbidden"})
            elif "/commit/" in self.path:
                for row in map(json.loads, body.splitlines()):
                    if row["key"] == "file":
                        hub.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                self._say(
                    200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.url}/me/it/commit/{'0' * 40}"}
                )
            else:
                self._say(200, {})

        do_GET = do_POST  # noqa: N815

        def _say(self, status: int, value: dict[str, Any]) -> None:
            self.reply(status, json.dumps(value).encode())

    with serving(Handler) as hub.url:
        yield hub
