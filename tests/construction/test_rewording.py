"""Stage 5: a model words the request anew, and what it says is checked before it counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, text_of
from PIL import Image

from mmsafe.curation.build.entities import last_turn
from mmsafe.curation.build.local_rewording import LocalRewording
from mmsafe.curation.build.rewording import NoRewording, cleaned
from mmsafe.curation.build.served_rewording import ServedRewording
from mmsafe.curation.build.stage import BuildStage, Outcome, Site
from mmsafe.microworld.tiny import TinyModel

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mmsafe_po_sample.json"
BEFORE = "USER: Hello ASSISTANT: Hi. USER: <image>\n"
MID = f"{BEFORE}Where is the place in the photo? ASSISTANT:"
ROW = {"entity": "Rome", "entity_type": "LOC", "mid_prompt": MID, "image": "rome.png"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "images" / "rome.png")
    return Site(tmp_path, TinyModel(pretraining=None))


def served(server: ChatServer, **options: Any) -> ServedRewording:
    return ServedRewording(**{"base_url": server.url, "model": "m", "max_retries": 0, **options})


def made(stage: BuildStage, site: Site, count: int = 1) -> dict[str, Outcome]:
    rows = {str(number): ROW for number in range(count)}
    return dict(outcome for portion in stage.make(rows, site) for outcome in portion)


def test_the_model_sees_the_image_and_the_substituted_request_and_its_words_become_the_question(site: Site):
    with ChatServer(lambda request: Reply("Where can I find this place?")) as server:
        outcome = made(served(server), site)["0"]
    assert outcome.row is not None
    assert outcome == Outcome({**ROW, "question": f"{BEFORE}Where can I find this place? ASSISTANT:"})
    (request,) = server.requests
    assert text_of(request).endswith("Request: Where is the place in the photo?")
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]


FAILURES = {
    "empty": Reply(" "),
    "cut off": Reply("Where can I find", finish_reason="length"),
    "entity named": Reply("Where is rome?"),
    "more than one image": Reply("<image> and <image> where?"),
    "speaker label": Reply("USER: where is it?"),
    "too long": Reply("Where is this place? " * 30),
    "several lines": Reply("Where is this?\nIt is far."),
    "refusal in place of a request": Reply("I'm sorry, but where?"),
    "no longer a request": Reply("It is in Italy."),
    "not answered by the endpoint": Reply(status=400, code="content_filter"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_wording_that_fails_a_check_is_counted_and_the_row_kept_or_dropped(failure: str, site: Site):
    with ChatServer(lambda request: FAILURES[failure]) as server:
        kept, dropped = (made(served(server, on_failure=choice), site)["0"] for choice in ("keep", "drop"))
    assert kept == Outcome({**ROW, "question": MID}, f"not reworded: {failure}")
    assert dropped == Outcome(None, f"new wording failed: {failure}")


@pytest.mark.parametrize(
    "reply", ["<image>\nWhere is it?", '"Where is it?"', "Request: Where is it?", " Where is it?\n", "“Where is it?”"]
)
def test_what_models_put_around_a_wording_is_taken_off(reply: str):
    assert cleaned(reply) == "Where is it?"


def test_a_local_model_is_asked_and_found_again_in_the_cache(site: Site, llava: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TinyModel, "load", lambda self: llava)
    outcomes = made(LocalRewording(max_new_tokens=4, batch_size=2), site, 3)
    assert list(outcomes) == ["0", "1", "2"]
    assert all(outcome.row is not None and outcome.reason for outcome in outcomes.values())  # random words, cut off
    monkeypatch.setattr("mmsafe.generation.generate.generate", lambda *_: pytest.fail("asked again"))
    assert made(LocalRewording(max_new_tokens=4, batch_size=3), site, 3) == outcomes
    unasked = made(LocalRewording(max_new_tokens=4, max_length=5), site, 3)
    assert {outcome.reason for outcome in unasked.values()} == {"not reworded: request too long"}


def test_another_model_or_instruction_is_another_stage_and_another_speed_is_not(site: Site):
    with ChatServer(lambda request: Reply("")) as server:
        one, quick, other = served(server), served(server, concurrency=1, timeout=3.0), served(server, model="n")
    assert one.identity(site) == quick.identity(site) != other.identity(site)
    local = LocalRewording().identity(site)
    assert local != LocalRewording().identity(Site(site.folder, TinyModel(seed=5, pretraining=None)))


def test_without_a_model_the_words_stay(site: Site):
    assert made(NoRewording(), site)["0"] == Outcome({**ROW, "question": MID})


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_most_published_wordings_pass_the_checks():
    stage = LocalRewording()
    rows = json.loads(SAMPLE.read_text())
    failures = [stage.failure(row, last_turn(row["question"])) for row in rows]
    assert failures.count(None) >= 75
    assert failures.count("entity named") == 1
