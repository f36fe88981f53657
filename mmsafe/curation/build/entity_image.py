"""Stage 3: an image of the entity, and whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from mmsafe.core.cache import cache_dir
from mmsafe.core.claims import Claims
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, options
from mmsafe.core.row_store import RowStore
from mmsafe.curation.build.google import KnowledgeGraph
from mmsafe.curation.build.image_files import ImageFiles
from mmsafe.curation.build.polite_client import PoliteClient, Politeness, RefusedError, UnreachableError
from mmsafe.curation.build.stage import BuildStage, Outcome, Row, Site, plain
from mmsafe.curation.build.wikipedia import TITLES, Wiki, page_images
from mmsafe.data.example import digest

NO_IMAGE = "no image of the entity"


class FoundImages(RowStore["dict[str, Any] | None"]):
    """Rows `name` of an entity and `image`: address and attribution, null where there is none."""

    stem = "images"
    key = "name"

    def row(self, value: dict[str, Any] | None) -> Mapping[str, Any]:
        return {"image": value}

    def value(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        return row["image"]  # type: ignore[no-any-return]


class Chosen(NamedTuple):
    """A candidate of a row, where its image comes from, and the file."""

    entity: dict[str, Any]
    image: dict[str, Any]
    file: Path


@options
class EntityImage(Politeness, BuildStage):
    """Wikipedia's image of the page with the entity's name. What was found and fetched is kept for other sets, too."""

    costs: ClassVar[bool] = True
    idle: ClassVar[frozenset[str]] = frozenset(Politeness.__annotations__) | {"on_unreachable"}

    api: str = "https://en.wikipedia.org/w/api.php"
    """Of a MediaWiki with the extensions PageImages and CommonsMetadata."""
    width: Count = 500
    """Pixels; one of the widths that Wikimedia keeps, such as 250, 500 and 960."""
    licence: Literal["free", "any"] = "free"
    """`any` includes images that may be shown under fair use only."""
    google: KnowledgeGraph | None = None
    """Asked for what Wikipedia has no image of; null: nobody."""
    candidates: Count = 3
    """Entities of a row that are tried, the most certain first."""
    max_bytes: Count = 20 * 2**20
    """Of an image file."""
    on_unreachable: Literal["error", "drop"] = "error"
    """Images that could not be fetched this time: end the command after all others, or drop their rows."""

    def check(self, site: Site) -> None:
        """Raise `UserError` if requests could not be signed, or the key is missing."""
        if not self.contact or not self.contact.isprintable() or not self.contact.isascii():
            raise UserError(
                "entity_image.contact is not set: name an e-mail address or a page, which is sent with each request; "
                "Wikimedia's policy asks for it"
            )
        if urlsplit(self.api).scheme not in ("http", "https"):
            raise UserError(f"entity_image.api={self.api}: must begin with http:// or https://")
        if self.google and not self.google.key:
            raise UserError(f"entity_image.google: set the environment variable {self.google.key_env} to a key")

    def plan(self, count: int, rows: Sequence[Row] | None) -> str:
        names = count * self.candidates if rows is None else len(set(self._names(rows)))
        requests = -(-names // TITLES) * 2 + names * (2 if self.google else 1)
        seconds = requests / self.requests_per_second
        told = f"{names} names, {requests} requests, from {seconds / 60:.0f} min"
        return f"{urlsplit(self.api).netloc}{' and Google' if self.google else ''}: at most {told}"

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        key = digest([self.api, self.width, self.licence, plain(self.google) if self.google else None])
        unreachable: list[str] = []
        waiting = iter(rows.items())
        folder = cache_dir("entity_images") / key
        with Claims(folder) as claims, asyncio.Runner() as runner:
            store = FoundImages(folder, claims.place)
            client = runner.run(_entered(self))
            try:
                files = ImageFiles(client, site.images, self.max_bytes)
                while chunk := list(islice(waiting, TITLES)):
                    self._look_up(runner, client, claims, store, self._names([row for _, row in chunk]))
                    made = runner.run(self._choose_all(files, [row for _, row in chunk], store.found))
                    unreachable += [str(one) for one in made if isinstance(one, UnreachableError)]
                    yield [(name, one) for (name, _), one in zip(chunk, self._settled(made), strict=True) if one]
            finally:
                runner.run(client.__aexit__())
        if unreachable and self.on_unreachable == "error":
            raise UserError(
                f"entity_image: {len(unreachable)} images could not be fetched ({unreachable[0]}); all others are "
                "kept, and the same command asks for these alone; entity_image.on_unreachable=drop leaves them out"
            )

    def _names(self, rows: Sequence[Row]) -> list[str]:
        return [entity["entity"] for row in rows for entity in row["entities"][: self.candidates]]

    def _look_up(
        self, runner: asyncio.Runner, client: PoliteClient, claims: Claims, store: FoundImages, names: Sequence[str]
    ) -> None:
        """See that the store has every name."""
        missing = claims.missing(names, store.read)
        for own in claims.shared(missing, store.read, TITLES):
            try:
                store.append(runner.run(self._found(client, own)).items())
            except (UnreachableError, RefusedError) as error:
                host = urlsplit(self.api).netloc
                raise UserError(
                    f"entity_image: {host} does not answer ({error}); what was found is kept, and the same command "
                    "goes on"
                ) from error

    async def _found(self, client: PoliteClient, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        found = await page_images(client, Wiki(self.api, self.width, self.licence), names)
        if self.google:
            lacking = [name for name, image in found.items() if image is None]
            images = await asyncio.gather(*(self.google.image(client, name) for name in lacking))
            found |= dict(zip(lacking, images, strict=True))
        return found

    async def _choose_all(
        self, files: ImageFiles, rows: Sequence[Row], found: Mapping[str, dict[str, Any] | None]
    ) -> list[Outcome | UnreachableError]:
        chosen = await asyncio.gather(*(self._choose(files, row, found) for row in rows))
        # Placed in the order of rows, whatever came first: names do not depend on the network.
        return [_placed(files, row, one) for row, one in zip(rows, chosen, strict=True)]

    async def _choose(
        self, files: ImageFiles, row: Row, found: Mapping[str, dict[str, Any] | None]
    ) -> Chosen | UnreachableError | str:
        """The first candidate with an image, why it could not be fetched, or why there is none."""
        reason = NO_IMAGE
        for entity in row["entities"][: self.candidates]:
            image = found[entity["entity"]]
            if image is None:
                continue
            try:
                return Chosen(entity, image, await files.fetched(image["url"]))
            except RefusedError as error:
                reason = f"image refused: {error}"
            except UnreachableError as error:
                return error
        return reason

    def _settled(self, made: Sequence[Outcome | UnreachableError]) -> list[Outcome | None]:
        """Nothing is said yet of what could not be fetched, unless it is to be dropped."""
        dropped = Outcome(None, "image could not be fetched") if self.on_unreachable == "drop" else None
        return [dropped if isinstance(one, UnreachableError) else one for one in made]


def _placed(files: ImageFiles, row: Row, one: Chosen | UnreachableError | str) -> Outcome | UnreachableError:
    if isinstance(one, UnreachableError):
        return one
    if isinstance(one, str):
        return Outcome(None, one)
    known = {name: value for name, value in row.items() if name != "entities"}
    return Outcome({**known, **one.entity, "image": files.place(one.image["url"], one.file), "attribution": one.image})


async def _entered(limits: Politeness) -> PoliteClient:
    return await PoliteClient(limits).__aenter__()
