"""Wikipedia's image of a page, and whose it is: MediaWiki's `pageimages` and `imageinfo`, many titles at a time."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.curation.build.polite_client import AgainError, PoliteClient, asked_wait

if TYPE_CHECKING:
    from httpx2 import Response

TITLES = 50
"""A request may name so many."""
FORBIDDEN = re.compile(r"[#<>\[\]|{}\x00-\x1f\x7f]")
"""Characters that no title has."""
BUSY = {"maxlag", "ratelimited", "readonly"}
MAX_REPLY = 20 * 2**20
MAX_LAG = "5"
"""Seconds that the databases may lag behind before we are to wait."""
CONTINUED = 50
"""Parts of one answer, at most."""
TAG = re.compile(r"<[^>]*>")


class Wiki(NamedTuple):
    """Which wiki is asked, and for what: width in pixels, and `free` or `any` licence."""

    api: str
    width: int
    licence: str


async def page_images(client: PoliteClient, wiki: Wiki, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """The image of the page that each name leads to, with its attribution; None where there is none.

    `names` are at most 50. Raises `UnreachableError`, `RefusedError`, and `UserError` if the wiki takes no request.
    """
    titles = {name: name.strip() for name in names if name.strip() and not FORBIDDEN.search(name)}
    images: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
    if not titles:
        return images
    params = {
        "prop": "pageimages|info",
        "inprop": "url",
        "piprop": "thumbnail|name",
        "pithumbsize": str(wiki.width),
        "pilicense": wiki.licence,
        "pilimit": str(TITLES),
        "redirects": "1",
        "titles": "|".join(dict.fromkeys(titles.values())),
    }
    pages, renamed = await _query(client, wiki, params)
    for name, title in titles.items():
        page = pages.get(_followed(title, renamed), {})
        if "source" in page.get("thumbnail", {}) and "pageimage" in page:
            images[name] = {
                "url": page["thumbnail"]["source"],
                "source": wiki.api,
                "page": page["title"],
                "page_url": page.get("canonicalurl"),
                "file": f"File:{page['pageimage'].replace('_', ' ')}",  # as titles are written
            }
    await _attribute(client, wiki, [image for image in images.values() if image])
    return images


async def _attribute(client: PoliteClient, wiki: Wiki, images: list[dict[str, Any]]) -> None:
    """Add licence and author, where the file's description has them."""
    if not images:
        return
    params = {
        "prop": "imageinfo",
        "iiprop": "url|extmetadata",
        "iiextmetadatafilter": "LicenseShortName|LicenseUrl|Artist",
        "titles": "|".join(dict.fromkeys(image["file"] for image in images)),
    }
    pages, renamed = await _query(client, wiki, params)
    for image in images:
        info = (pages.get(_followed(image["file"], renamed), {}).get("imageinfo") or [{}])[0]
        about = info.get("extmetadata", {})
        image["file_url"] = info.get("descriptionurl")
        for field, key in (("licence", "LicenseShortName"), ("licence_url", "LicenseUrl"), ("author", "Artist")):
            markup = about.get(key, {}).get("value")
            words = html.unescape(TAG.sub(" ", markup)).split() if isinstance(markup, str) else []
            image[field] = " ".join(words) or None


async def _query(
    client: PoliteClient, wiki: Wiki, params: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Pages by title, and what other titles lead there; answers in several parts are put together."""
    fixed = {"action": "query", "format": "json", "formatversion": "2", "maxlag": MAX_LAG, **params}
    pages: dict[str, dict[str, Any]] = {}
    renamed: dict[str, str] = {}
    more: dict[str, str] = {}
    for _ in range(CONTINUED):
        reply = await client.get(wiki.api, _read, MAX_REPLY, params=fixed | more)
        query = reply.get("query", {})
        for page in query.get("pages", ()):
            pages.setdefault(page["title"], {}).update(page)
        for step in ("normalized", "redirects"):
            renamed |= {change["from"]: change["to"] for change in query.get(step, ())}
        if "continue" not in reply:
            break
        more = {name: str(value) for name, value in reply["continue"].items()}
    return pages, renamed


def _read(reply: Response, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AgainError("a reply that is not JSON") from error
    if not isinstance(value, dict):
        raise AgainError("a reply that is no object")
    if isinstance(problem := value.get("error"), dict):
        code = str(problem.get("code"))[:40]
        if code in BUSY or code.startswith("internal_api_error"):
            raise AgainError(f"error {code}", asked_wait(reply.headers))
        raise UserError(f"entity_image.api: {reply.url.host} refuses the request with error {code!r}")
    return value


def _followed(title: str, renamed: Mapping[str, str]) -> str:
    """Where a title leads in the end."""
    for _ in range(len(renamed)):
        if title not in renamed:
            break
        title = renamed[title]
    return title
