"""Stage 3: an image of the entity, and whose it is."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal
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
Fetched = tuple[dict[str, Any], dict[str, Any], Path] | UnreachableError | str
"""The first candidate of a row that has an image, with where that is from and its file; or why there is none."""


class FoundImages(RowStore["dict[str, Any] | None"]):
    """Rows `name` of an entity and `image`: address and attribution, null where there is none."""

    stem = "images"
    key = "name"

    def row(self, value: dict[str, Any] | None) -> Mapping[str, Any]:
        return {"image": value}

    def value(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        return row["image"]  # type: ignore[no-any-return]


@options
class EntityImage(Politeness, BuildStage):
    """Wikipedia's image of the page with the entity's name. What was found and fetched is kept for other sets, too."""

    costs: ClassVar[bool] = True
    idle: ClassVar[frozenset[str]] = frozenset(Politeness.__annotations__) | {"on_unreachable"}

    api: str = "https://en.wikipedia.org/w/api.php"
    width: Count = 500
    licence: Literal["free", "any"] = "free"
    """`any` includes images that may be shown under fair use only."""
    google: KnowledgeGraph | None = None
    """Asked for what Wikipedia has no image of; null: nobody."""
    candidates: Count = 3
    """Entities of a row that are tried, the most certain first."""
    max_bytes: Count = 20 * 2**20
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
        requested = f"{names} names, {requests} requests, from {seconds / 60:.0f} min"
        return f"{urlsplit(self.api).netloc}{' and Google' if self.google else ''}: at most {requested}"

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        key = digest([self.api, self.width, self.licence, plain(self.google) if self.google else None])
        unreachable: list[UnreachableError] = []
        waiting = iter(rows.items())
        folder = cache_dir("entity_images") / key
        with Claims(folder) as claims, asyncio.Runner() as runner:
            store, client = FoundImages(folder, claims.place), PoliteClient(self)
            files = ImageFiles(client, site.images, self.max_bytes)
            try:
                while chunk := dict(islice(waiting, TITLES)):
                    self._look_up(runner, client, claims, store, self._names(list(chunk.values())))
                    fetched = runner.run(self._fetched(files, list(chunk.values()), store.kept))
                    outcomes = []
                    # Placed in the order of rows, whatever came first: names do not depend on the network.
                    for (name, row), image in zip(chunk.items(), fetched, strict=True):
                        if isinstance(image, UnreachableError):
                            unreachable.append(image)
                        if outcome := self._outcome(files, row, image):
                            outcomes.append((name, outcome))
                    yield outcomes
            finally:
                runner.run(client.aclose())
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
        for claimed in claims.shared(missing, store.read, TITLES):
            try:
                store.append(runner.run(self._images_of(client, claimed)).items())
            except (UnreachableError, RefusedError) as error:
                host = urlsplit(self.api).netloc
                raise UserError(
                    f"entity_image: {host} does not answer ({error}); what was found is kept, and the same command "
                    "goes on"
                ) from error

    async def _images_of(self, client: PoliteClient, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        by_name = await page_images(client, Wiki(self.api, self.width, self.licence), names)
        if self.google:
            lacking = [name for name, image in by_name.items() if image is None]
            images = await asyncio.gather(*(self.google.image(client, name) for name in lacking))
            by_name |= dict(zip(lacking, images, strict=True))
        return by_name

    async def _fetched(
        self, files: ImageFiles, rows: Sequence[Row], images: Mapping[str, dict[str, Any] | None]
    ) -> list[Fetched]:
        return await asyncio.gather(*(self._fetched_for(files, row, images) for row in rows))

    async def _fetched_for(self, files: ImageFiles, row: Row, images: Mapping[str, dict[str, Any] | None]) -> Fetched:
        reason = NO_IMAGE
        for entity in row["entities"][: self.candidates]:
            image = images[entity["entity"]]
            if image is None:
                continue
            try:
                return entity, image, await files.fetched(image["url"])
            except RefusedError as error:
                reason = f"image refused: {error}"
            except UnreachableError as error:
                return error
        return reason

    def _outcome(self, files: ImageFiles, row: Row, fetched: Fetched) -> Outcome | None:
        """None as long as nothing is said of what could not be fetched."""
        if isinstance(fetched, UnreachableError):
            return Outcome(None, "image could not be fetched") if self.on_unreachable == "drop" else None
        if isinstance(fetched, str):
            return Outcome(None, fetched)
        entity, image, file = fetched
        known = {name: value for name, value in row.items() if name != "entities"}
        return Outcome({**known, **entity, "image": files.place(image["url"], file), "attribution": image})
