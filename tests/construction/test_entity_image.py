"""Stage 3 against a MediaWiki on loopback: what it asks, how politely, and what it does when it is not answered."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from wiki_server import API, WikiServer, api_error, content, picture, redirect, slow, status, truncated

from mmsafe.core.errors import UserError
from mmsafe.curation.build.entity_image import EntityImage
from mmsafe.curation.build.google import KnowledgeGraph
from mmsafe.curation.build.image_files import published_name
from mmsafe.curation.build.polite_client import asked_wait
from mmsafe.curation.build.stage import Outcome, Site
from mmsafe.microworld.tiny import TinyModel

THUMB = "/thumb/500px-Rome.png"


@pytest.fixture
def wiki() -> Iterator[WikiServer]:
    with WikiServer({"Rome": "Rome.png", "Paris": "Paris_(1).jpg", "Blank": None}, {"Eternal City": "Rome"}) as server:
        yield server


def stage(wiki: WikiServer, **options: Any) -> EntityImage:
    given = {"api": wiki.api, "contact": "me@example.org", "requests_per_second": 1000.0, "max_retries": 2}
    return EntityImage(**{**given, **options})


def rows(*names: str) -> dict[str, Any]:
    """A row with these candidates, in this order, for every argument; `a|b` are two candidates."""
    return {
        str(number): {"entities": [{"entity": name, "entity_type": "LOC", "score": 0.9} for name in names.split("|")]}
        for number, names in enumerate(names, start=1)
    }


def made(stage: EntityImage, folder: Path, *names: str) -> dict[str, Outcome]:
    site = Site(folder, TinyModel())
    return dict(outcome for portion in stage.make(rows(*names), site) for outcome in portion)


def image_of(outcome: Outcome) -> str:
    assert outcome.row is not None, outcome.reason
    return str(outcome.row["image"])


def test_the_image_of_the_page_is_fetched_and_its_licence_kept(wiki: WikiServer, tmp_path: Path):
    (outcome,) = made(stage(wiki), tmp_path, "Rome").values()
    assert outcome.row == {
        "entity": "Rome",
        "entity_type": "LOC",
        "score": 0.9,
        "image": "500px-Rome.png",
        "attribution": {
            "url": f"{wiki.url}{THUMB}",
            "source": wiki.api,
            "page": "Rome",
            "page_url": f"{wiki.url}/wiki/Rome",
            "file": "File:Rome.png",
            "file_url": f"{wiki.url}/wiki/File:x",
            "licence": "CC BY-SA 4.0",
            "licence_url": None,
            "author": "Ann & Co",
        },
    }
    assert (tmp_path / "images" / "500px-Rome.png").read_bytes() == picture(THUMB)


def test_names_lead_to_pages_by_spelling_and_redirects_and_are_encoded_as_in_the_address(
    wiki: WikiServer, tmp_path: Path
):
    found = made(stage(wiki), tmp_path, "eternal City", "paris", "Rome")
    assert [image_of(one) for one in found.values()] == ["500px-Rome.png", "500px-Paris_%281%29.jpg", "500px-Rome.png"]
    assert wiki.paths().count(THUMB) == 1


def test_requests_are_signed_few_and_free_images_only(wiki: WikiServer, tmp_path: Path):
    wiki.pages = {"*": None}
    made(stage(wiki, requests_per_second=100.0, concurrency=2), tmp_path, *(f"Place {n}" for n in range(60)))
    times = [asked.time for asked in wiki.asked]
    assert wiki.most_under_way <= 2
    assert times[-1] - times[0] >= (len(times) - 2) / 100
    assert all(asked.agent.startswith("mmsafe/") and "(me@example.org)" in asked.agent for asked in wiki.asked)
    questions = [asked.query for asked in wiki.asked if asked.path == API]
    assert len(questions) == 4  # 50 titles and 10, for pages and for files
    assert {query["maxlag"] for query in questions} == {"5"}
    assert {query["pilicense"] for query in questions if query["prop"] != "imageinfo"} == {"free"}


def test_the_next_candidate_is_taken_where_the_first_has_no_image(wiki: WikiServer, tmp_path: Path):
    wiki.faults[THUMB] = status(404)
    found = made(stage(wiki), tmp_path, "Blank|Rome|Paris", "Nowhere|Blank", "Rome", "bad [name]|Paris")
    assert image_of(found["1"]) == image_of(found["4"]) == "500px-Paris_%281%29.jpg"
    assert found["1"].row is not None
    assert found["1"].row["entity"] == "Paris"
    assert found["2"] == Outcome(None, "no image of the entity")
    assert found["3"] == Outcome(None, "image refused: HTTP 404")


NOT_IMAGES = {
    "a web page": content(b"<html>blocked</html>"),
    "an SVG": content(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "half an image": content(picture("x")[:60]),
    "nothing": content(b""),
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_not_an_image_is_refused_and_not_kept(kind: str, wiki: WikiServer, tmp_path: Path, own_cache: Path):
    wiki.faults[THUMB] = NOT_IMAGES[kind]
    assert made(stage(wiki), tmp_path, "Rome")["1"] == Outcome(None, "image refused: not an image that can be decoded")
    assert not [*tmp_path.rglob("*Rome*"), *(own_cache / "entity_images" / "files").iterdir()]


def test_huge_files_and_huge_images_are_refused(wiki: WikiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wiki.faults[THUMB] = content(bytes(200_000))
    assert made(stage(wiki, max_bytes=100_000), tmp_path, "Rome")["1"].reason == "image refused: larger than allowed"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reason = made(stage(wiki), tmp_path, "Paris")["1"].reason
    assert reason == "image refused: not an image that can be decoded"


PASSING = {
    "too many requests": status(429, Retry_After="1"),
    "too many requests, by date": status(429, Retry_After=format_datetime(datetime.now(UTC), usegmt=True)),
    "out of order": status(503, Retry_After="0"),
    "replication lag": api_error("maxlag", Retry_After="0"),
    "rate limit": api_error("ratelimited", Retry_After="0"),
    "a page in place of JSON": content(b"<html>", "text/html"),
    "an array in place of an object": content(b"[]", "application/json"),
    "truncated": truncated,
}


@pytest.mark.parametrize("kind", PASSING)
def test_the_api_is_asked_again_after_what_passes(kind: str, wiki: WikiServer, tmp_path: Path):
    wiki.faults[API] = [PASSING[kind]]
    assert image_of(made(stage(wiki), tmp_path, "Rome")["1"]) == "500px-Rome.png"
    wait = wiki.asked[1].time - wiki.asked[0].time
    assert wait >= (1 if kind == "too many requests" else 0)


def test_a_server_that_asks_for_time_is_left_alone_by_all_requests(wiki: WikiServer, tmp_path: Path):
    wiki.pages = {"*": None}
    wiki.faults["/thumb/500px-Place_0.png"] = [status(429, Retry_After="1")]
    made(stage(wiki, concurrency=1), tmp_path, *(f"Place {n}" for n in range(4)))
    files = [asked for asked in wiki.asked if asked.path != API]
    assert files[0].path == "/thumb/500px-Place_0.png"
    assert min(asked.time for asked in files[1:]) - files[0].time >= 1
    assert len(files) == 5


def test_slow_and_broken_files_are_fetched_again(wiki: WikiServer, tmp_path: Path):
    wiki.faults[THUMB] = [slow(30), truncated]
    assert image_of(made(stage(wiki, timeout=0.5), tmp_path, "Rome")["1"]) == "500px-Rome.png"
    assert wiki.paths() == [THUMB] * 3
    assert (tmp_path / "images" / "500px-Rome.png").read_bytes() == picture(THUMB)


def test_a_redirect_is_followed_and_an_endless_one_is_refused(wiki: WikiServer, tmp_path: Path):
    wiki.faults[THUMB] = redirect("/thumb/elsewhere.png")
    wiki.faults["/thumb/500px-Paris_%281%29.jpg"] = redirect("/thumb/500px-Paris_%281%29.jpg")
    found = made(stage(wiki), tmp_path, "Rome", "Paris")
    assert image_of(found["1"]) == "500px-Rome.png"
    assert found["2"].reason == "image refused: redirected to nowhere"


def test_images_that_cannot_be_had_today_end_the_command_after_all_others(wiki: WikiServer, tmp_path: Path):
    wiki.faults[THUMB] = status(503, Retry_After="0")
    yielded = stage(wiki).make(rows("Rome", "Paris"), Site(tmp_path, TinyModel()))
    assert [(key, image_of(one)) for key, one in next(yielded)] == [("2", "500px-Paris_%281%29.jpg")]
    with pytest.raises(UserError, match=r"1 images could not be fetched \(HTTP 503, 3 times\); all others are kept"):
        next(yielded)
    assert made(stage(wiki, on_unreachable="drop"), tmp_path, "Rome")["1"] == Outcome(
        None, "image could not be fetched"
    )


def test_a_wait_that_is_too_long_is_not_waited_for(wiki: WikiServer, tmp_path: Path):
    wiki.faults[API] = status(429, Retry_After="86400")
    with pytest.raises(UserError, match=r"does not answer \(HTTP 429; the server asks to be left alone for 86400 s\)"):
        made(stage(wiki), tmp_path, "Rome")
    assert len(wiki.asked) == 1


@pytest.mark.parametrize(
    ("fault", "told"), [(status(403), "does not answer (HTTP 403)"), (api_error("badvalue"), "with error 'badvalue'")]
)
def test_a_wiki_that_refuses_ends_the_command_at_once(fault: Any, told: str, wiki: WikiServer, tmp_path: Path):
    wiki.faults[API] = fault
    with pytest.raises(UserError) as caught:
        made(stage(wiki), tmp_path, "Rome")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(wiki.asked) == 1


def test_what_was_found_and_fetched_is_not_asked_for_again(wiki: WikiServer, tmp_path: Path):
    made(stage(wiki), tmp_path / "one", "Rome", "Nowhere")
    before = len(wiki.asked)
    again = made(stage(wiki, concurrency=1), tmp_path / "two", "Rome", "Nowhere")
    assert image_of(again["1"]) == "500px-Rome.png"
    assert (tmp_path / "two" / "images" / "500px-Rome.png").exists()
    assert len(wiki.asked) == before


def test_two_images_of_one_name_are_kept_apart(wiki: WikiServer, tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "500px-Rome.png").write_bytes(picture("another"))
    name = image_of(made(stage(wiki), tmp_path, "Rome")["1"])
    assert name.endswith("-500px-Rome.png")
    assert (tmp_path / "images" / name).read_bytes() == picture(THUMB)


def test_answers_in_parts_are_put_together(wiki: WikiServer, tmp_path: Path):
    whole = wiki.answer({"prop": "pageimages", "titles": "Rome"})
    (page,) = whole["query"]["pages"]
    thumbnail = {name: page.pop(name) for name in ("thumbnail", "pageimage")}
    first = {"continue": {"picontinue": 7, "continue": "||"}, **whole}
    second = {"query": {"pages": [{"title": "Rome", **thumbnail}]}}
    wiki.faults[API] = [content(json.dumps(part).encode(), "application/json") for part in (first, second)]
    assert image_of(made(stage(wiki), tmp_path, "Rome")["1"]) == "500px-Rome.png"
    assert wiki.asked[1].query["picontinue"] == "7"


def test_google_is_asked_for_the_rest_with_the_key_out_of_the_address(
    wiki: WikiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GOOGLE_API_KEY", "secret")
    keys: list[str] = []
    image = {"contentUrl": f"{wiki.url}/thumb/images?q=tbn:ANd9Gc1", "url": "http://example.org"}
    found = json.dumps({"itemListElement": [{"result": {"name": "Blank Co", "image": image}}]}).encode()

    def answer(handler: Any) -> None:
        keys.append(handler.headers["X-Goog-Api-Key"])
        handler.reply(200, found, "application/json")

    wiki.faults["/kg"] = answer
    google = KnowledgeGraph(api=f"{wiki.url}/kg")
    (one, two) = made(stage(wiki, google=google), tmp_path, "Blank", "Rome").values()
    assert image_of(one) == "tbn:ANd9Gc1"
    assert one.row is not None
    assert one.row["attribution"]["licence"] is None
    assert image_of(two) == "500px-Rome.png"
    assert keys == ["secret"]
    assert not any("secret" in str(asked) for asked in wiki.asked)


def test_what_is_missing_is_told_before_anything_is_asked(wiki: WikiServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    site = Site(Path("unused"), TinyModel())
    with pytest.raises(UserError, match=r"entity_image\.contact is not set"):
        stage(wiki, contact=None).check(site)
    with pytest.raises(UserError, match="GOOGLE_API_KEY"):
        stage(wiki, google=KnowledgeGraph()).check(site)
    with pytest.raises(UserError, match="must begin with http"):
        stage(wiki, api="ftp://example.org").check(site)
    assert not wiki.asked


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://u.org/thumb/a/ab/X_%28a%29.jpg/500px-X_%28a%29.jpg", r"500px-X_%28a%29\.jpg"),
        ("http://t1.gstatic.com/images?q=tbn:ANd9GcQ", "tbn:ANd9GcQ"),
        ("https://u.org/a%2F..%2Fb", r"a%2F\.\.%2Fb"),
        ("https://u.org/..", "[0-9a-f]{32}"),
        ("https://u.org/", "[0-9a-f]{32}"),
        (f"https://u.org/{'x' * 300}", "[0-9a-f]{32}"),
    ],
)
def test_published_names(url: str, name: str):
    assert re.fullmatch(name, published_name(url))


def test_retry_after_is_seconds_or_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert asked_wait({"Retry-After": "7"}) == 7
    assert 90 < (asked_wait({"Retry-After": soon}) or 0) <= 100
    assert asked_wait({"Retry-After": "Fri, 01 Jan 1990 00:00:00 GMT"}) == 0
    assert asked_wait({"Retry-After": "soon"}) is None
    assert asked_wait({}) is None
