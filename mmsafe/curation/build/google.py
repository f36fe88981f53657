"""Google's Knowledge Graph, the paper's fall-back where Wikipedia has no image."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mmsafe.core.options import options
from mmsafe.curation.build.polite_client import AgainError, PoliteClient

if TYPE_CHECKING:
    from httpx2 import Response

MAX_REPLY = 2 * 2**20


@options
class KnowledgeGraph:
    """Asked by name; the best match counts. Its images are mostly not free: see their terms before you publish."""

    api: str = "https://kgsearch.googleapis.com/v1/entities:search"
    key_env: str = "GOOGLE_API_KEY"
    """Name of the environment variable that holds the key."""

    @property
    def key(self) -> str:
        """The secret, from the environment; empty where there is none."""
        return os.environ.get(self.key_env, "")

    async def image(self, client: PoliteClient, name: str) -> dict[str, Any] | None:
        """The image of the best match, with its attribution; None where there is none."""
        query = {"query": name, "limit": "1"}
        # The key is a header: addresses end up in logs.
        result = await client.get(self.api, _read, MAX_REPLY, params=query, headers={"X-Goog-Api-Key": self.key})
        image = result.get("image") or {}
        if "contentUrl" not in image:
            return None
        return {
            "url": image["contentUrl"],
            "source": self.api,
            "page": result.get("name"),
            "page_url": image.get("url"),
            "file": None,
            "file_url": None,
            "licence": image.get("license"),
            "licence_url": image.get("license"),
            "author": None,
        }


def _read(reply: Response, content: bytes) -> dict[str, Any]:
    try:
        items = json.loads(content)["itemListElement"]
        return dict(items[0]["result"]) if items else {}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise AgainError("a reply that is no list of entities") from error
