"""`mmsafe.build` from end to end: a valid set, killed and continued, changed options, what it says and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hh_rows import PLACES, build_words, hh_row, write_hh
from launching import Ended, launch
from wiki_server import API, WikiServer, api_error, content, slow, status, truncated

from mmsafe.curation.build.stage_file import END, HEADER
from mmsafe.data.readers.mmsafe_po import MMSafePO

HH = Path(__file__).resolve().parents[2] / "shared" / "data" / "hh_harmless_base_test.jsonl.gz"
FIELDS = ["id", "question", "image", "chosen", "rejected", "type", "entity", "entity_type", "replacement"]
FIELDS += ["text_prompt", "mid_prompt"]
STAGES = ("conversations", "entities", "entity_image", "substitution", "rewording", "quality")


@pytest.fixture
def wiki() -> Iterator[WikiServer]:
    with WikiServer({"*": None}) as server:
        yield server


def build(folder: Path, data: Path, wiki: WikiServer, *more: str) -> Ended:
    return launch("build", *build_words(folder, data, wiki.api, *more), cwd=folder)


def lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    (path,) = (folder / "set").glob(f"stage_*_{stage}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def pairs(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "set" / "pairs.json").read_text()))


def test_a_set_has_the_published_fields_its_images_their_licences_and_a_card(tmp_path: Path, wiki: WikiServer):
    ended = build(tmp_path, write_hh(tmp_path / "rows.jsonl.gz"), wiki)
    assert ended.status == 0, ended.err
    rows = pairs(tmp_path)
    assert [list(row) for row in rows] == [FIELDS] * len(PLACES)
    assert rows[0] | {"replacement": "", "mid_prompt": "", "question": ""} == {
        "id": 1,
        "question": "",
        "image": "500px-Berlin.png",
        "chosen": "ASSISTANT: I will.",
        "rejected": "ASSISTANT: I won't.",
        "type": "harmless",
        "entity": "Berlin",
        "entity_type": "LOC",
        "replacement": "",
        "text_prompt": "USER: What can I see in Berlin? ASSISTANT:",
        "mid_prompt": "",
    }
    assert rows[0]["mid_prompt"] == f"USER: <image>\nWhat can I see in {rows[0]['replacement']}? ASSISTANT:"
    loaded = MMSafePO(path=tmp_path / "set" / "pairs.json", holdout_share=0).train()
    assert len(loaded.examples) == len(PLACES)
    assert not loaded.dropped
    images = {path.name for path in (tmp_path / "set" / "images").iterdir()}
    credits = json.loads((tmp_path / "set" / "attribution.json").read_text())
    assert images == set(credits) == {row["image"] for row in rows}
    card = (tmp_path / "set" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    assert "| entities | 13 | 12 | 1 no entity | – |" in card
    assert "| CC BY-SA 4.0 | 12 |" in card
    assert "What can I see" not in card + ended.out + ended.err


def test_the_same_command_again_asks_nothing_and_changes_nothing(tmp_path: Path, wiki: WikiServer):
    data = write_hh(tmp_path / "rows.jsonl")
    assert build(tmp_path, data, wiki).status == 0
    asked, before = len(wiki.asked), {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")}
    assert build(tmp_path, data, wiki, "entity_image.concurrency=1").status == 0
    assert len(wiki.asked) == asked
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")} == before


def test_changed_options_redo_their_stage_and_what_follows_and_nothing_before(tmp_path: Path, wiki: WikiServer):
    data = write_hh(tmp_path / "rows.jsonl")
    assert build(tmp_path, data, wiki).status == 0
    before = {stage: lines(tmp_path, stage)[0]["row"]["fingerprint"] for stage in STAGES}
    assert build(tmp_path, data, wiki, "substitution.seed=1", "substitution.nouns.LOC=[spot]").status == 0
    after = {stage: lines(tmp_path, stage)[0]["row"]["fingerprint"] for stage in STAGES}
    assert [before[stage] == after[stage] for stage in STAGES] == [True, True, True, False, False, False]
    assert all(" spot" in row["question"] for row in pairs(tmp_path))
    assert all(Counter(row["key"] for row in lines(tmp_path, stage)).most_common(1)[0][1] == 1 for stage in STAGES)
    assert build(tmp_path, data, wiki, "conversations.limit=3").status == 0
    assert [row["entity"] for row in pairs(tmp_path)] == list(PLACES[:3])
    assert len(list((tmp_path / "set" / "images").iterdir())) == 3, "rows that go take their images with them"


def test_a_file_that_was_cut_anywhere_is_continued(tmp_path: Path, wiki: WikiServer):
    data = write_hh(tmp_path / "rows.jsonl")
    assert build(tmp_path, data, wiki).status == 0
    whole = pairs(tmp_path)
    for stage in STAGES:
        (path,) = (tmp_path / "set").glob(f"stage_*_{stage}.jsonl")
        text = path.read_bytes()
        path.write_bytes(text[: len(text) * 2 // 3])
        assert build(tmp_path, data, wiki).status == 0, stage
        assert pairs(tmp_path) == whole
        assert path.read_bytes() == text


def start(folder: Path, data: Path, wiki: WikiServer) -> subprocess.Popen[bytes]:
    """A slow build in a process of its own, with its own cache."""
    words = build_words(folder, data, wiki.api, "entity_image.requests_per_second=15")
    return subprocess.Popen(
        [sys.executable, "-m", "mmsafe.build", *words],
        env={**os.environ, "MMSAFE_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "err").open("ab"),
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_without_loss_or_repeat(tmp_path: Path, wiki: WikiServer):
    rows = [hh_row(f"What is in {place} near Lake {place}?", chosen=f"{n}.") for n, place in enumerate(PLACES * 8)]
    data = write_hh(tmp_path / "rows.jsonl", rows)
    (tmp_path / "whole").mkdir()
    assert build(tmp_path / "whole", data, wiki).status == 0
    wiki.asked.clear()
    for enough in (1, 5, 9):  # requests, after which the process is killed
        process = start(tmp_path, data, wiki)
        while len(wiki.asked) < enough:
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(tmp_path, data, wiki)
    assert process.wait() == 0, (tmp_path / "err").read_text()
    assert pairs(tmp_path) == pairs(tmp_path / "whole")
    for stage in STAGES:
        keys = [row["key"] for row in lines(tmp_path, stage)]
        assert keys[0] == HEADER
        assert keys[-1] == END
        assert len(keys) == len(set(keys))
    fetched = Counter(asked.path for asked in wiki.asked if asked.path != API)
    # A kill costs what was under way: two requests.
    assert sum(count - 1 for count in fetched.values()) <= 3 * 2


def test_two_builds_in_one_folder_are_refused(tmp_path: Path, wiki: WikiServer):
    data = write_hh(tmp_path / "rows.jsonl")
    wiki.faults[API] = slow(20)
    process = start(tmp_path, data, wiki)
    try:
        while not wiki.asked:
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.01)
        ended = build(tmp_path, data, wiki)
        assert (ended.status, "is at work there" in ended.err) == (2, True)
    finally:
        process.kill()
        process.wait()


def test_a_dry_run_says_what_would_be_asked_or_is_left_and_asks_nothing(tmp_path: Path, wiki: WikiServer):
    data = write_hh(tmp_path / "rows.jsonl")
    ended = build(tmp_path, data, wiki, "dry_run=true", "entity_image.contact=null")
    assert ended.status == 0, ended.err
    assert "at most 12 names, 14 requests" in ended.out
    assert not wiki.asked
    assert not (tmp_path / "set").exists()
    assert build(tmp_path, data, wiki).status == 0
    endpoint = ("rewording=endpoint", "rewording.base_url=http://localhost:1/v1", "rewording.model=m")
    ended = build(tmp_path, data, wiki, "dry_run=true", *endpoint)
    assert ended.status == 0, ended.err
    cells = [line.split("│") for line in ended.out.splitlines() if line.startswith("│")]
    states = {row[1].strip(): row[2].strip() for row in cells}
    assert [states[stage] for stage in STAGES] == ["complete"] * 4 + ["to be made again"] * 2
    assert "12 requests with an image" in ended.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("conversations.path=nowhere.jsonl",), "conversations.path=nowhere.jsonl: no such folder or file"),
        (("entity_image.contact=null",), "entity_image.contact is not set"),
        (("entities=bert", "entities.path=nowhere"), "entities.path=nowhere: no such folder"),
        (("entities.min_score=1.0",), "no row is left"),
        (("entity_image.width=0",), "entity_image.width=0"),
        (("rewording=endpoint",), "rewording.base_url"),
        (("quality._target_=mmsafe.core.settings.Lengths",), "quality"),
    ],
)
def test_what_cannot_work_is_one_line(words: tuple[str, ...], told: str, tmp_path: Path, wiki: WikiServer):
    ended = build(tmp_path, write_hh(tmp_path / "rows.jsonl"), wiki, *words)
    assert ended.status == 2
    assert told in ended.err
    assert not wiki.asked


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, wiki: WikiServer):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "mine.png").touch()
    ended = build(tmp_path, write_hh(tmp_path / "rows.jsonl"), wiki)
    assert (ended.status, "holds other files" in ended.err) == (2, True)
    assert (tmp_path / "set" / "images" / "mine.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(not HH.exists(), reason="needs the HH-RLHF rows in ../shared/data")
def test_the_real_rows_make_a_valid_set_over_a_bad_network(tmp_path: Path, wiki: WikiServer):
    wiki.pages["America"] = None
    wiki.redirects["US"] = "United States"
    wiki.faults[API] = [status(429, Retry_After="1"), api_error("maxlag", Retry_After="0"), truncated]
    wiki.faults |= {
        "/thumb/500px-Adele.png": content(b"<html>"),
        "/thumb/500px-African.png": status(404),
        "/thumb/500px-Arabs.png": [slow(30), status(503, Retry_After="0")],
        "/thumb/500px-Asian.png": content(bytes(300_000)),
    }
    more = ("entity_image.max_bytes=200000", "entity_image.timeout=2", "entity_image.concurrency=2")
    ended = build(tmp_path, HH, wiki, *more)
    assert ended.status == 0, ended.err
    rows = pairs(tmp_path)
    loaded = MMSafePO(path=tmp_path / "set" / "pairs.json", holdout_share=0).train()
    assert len(loaded.examples) == len(rows) > 200
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| conversations | 2312 | 2299 | 4 empty response, 8 malformed chosen, 1 malformed rejected | – |" in card
    table = {line.split(" | ")[0]: line for line in card.splitlines()}
    for reason in ("HTTP 404", "larger than allowed", "not an image that can be decoded"):
        assert f"image refused: {reason}" in table["| entity_image"]
    assert "no image of the entity" in table["| entity_image"]
    credits = json.loads((tmp_path / "set" / "attribution.json").read_text())
    assert "United States" in {credit["page"] for credit in credits.values()}
    assert not {"Adele", "African", "America", "Asian"} & {row["entity"] for row in rows}
    assert "Arabs" in {row["entity"] for row in rows}
